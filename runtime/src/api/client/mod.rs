//! Clients: of a host daemon, one method a route, named as [`Host`](crate::host::Host)'s; and of the controller,
//! [`SdnClient`].
//!
//! Connections are kept and used again while the client lives. A request is repeated by itself only when it changes
//! nothing and the kept connection had died; everything else comes back as a [`ClientError`] that says what to do.

mod calls;
mod checkpoint;
mod connection;
mod endpoint;
mod error;
mod logs;
mod sdn;
mod sse;
mod transfer;
mod watch;
mod wire;

use std::time::Duration;

pub use checkpoint::ImageStream;
pub use endpoint::{Endpoint, EndpointError, PORT};
pub use error::ClientError;
pub use logs::LogStream;
pub use sdn::SdnClient;
pub use watch::{MigrationStream, WatchStream};

use wire::{Ask, Wire};

/// How long connecting may take, TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long an answer may take to begin. Starting a guest has limits of its own in the daemon, shorter ones.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The same for a module, which is compiled before the answer comes.
const COMPILE_LIMIT: Duration = Duration::from_secs(180);
/// Longest answer that is no stream, bytes: a host's list of guests.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A client of one host. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    wire: Wire,
}

impl Client {
    /// A client of that host; connects when it is used.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { wire: Wire::new(endpoint) }
    }

    /// The host it speaks to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.wire.endpoint
    }
}
