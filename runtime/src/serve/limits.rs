//! What peers may take of a daemon. All limits of the HTTP side stand here.

use std::time::Duration;

use crate::api::BODY_BYTES_MAX;
use crate::engine::MODULE_BYTES_MAX;

/// All memories that a guest can have, and as much again as their index, their checksums and what else is in an image may
/// take.
const IMAGE_BYTES_MAX: u64 = 40 << 30;

/// Limits of the HTTP side. Not to be configured: a test makes them small to reach them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections of peers that are known; beyond it: 503.
    pub connections_max: usize,
    /// The same of one peer: a user of the machine, or a certificate's name.
    pub connections_peer_max: usize,
    /// TLS handshakes under way; beyond it connections are closed unheard, for nobody knows yet whose they are.
    pub handshakes_max: usize,
    /// The same from one address, so that one stranger cannot keep all others out.
    pub handshakes_address_max: usize,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
    /// How long a request's header may take, and how long a connection may be idle between two.
    pub header: Duration,
    /// Headers of a request; beyond it: 431.
    pub headers_max: usize,
    /// Their bytes, the request line included; beyond it: 431. At least 8192.
    pub header_bytes_max: usize,
    /// How long no byte of a body may come; beyond it: 408.
    pub body_stall: Duration,
    /// Least rate of a body after that time, bytes a second; below it: 408.
    pub body_bytes_per_s_min: u64,
    /// Size of a body that is no module and no image; beyond it: 413.
    pub body_bytes_max: u64,
    /// Size of a module; beyond it: 413.
    pub module_bytes_max: u64,
    /// Size of an image; beyond it: 413.
    pub image_bytes_max: u64,
    /// How long a peer may take no byte of its answer; then the connection is closed.
    pub write_stall: Duration,
    /// Requests of one peer, a second on average; beyond it: 429.
    pub requests_per_s: u32,
    /// Requests that one peer may save up for.
    pub requests_burst: u32,
    /// Peers whose requests are counted at the same time; beyond it a new one gets 503.
    pub peers_max: usize,
    /// How long requests may go on when the daemon goes down.
    pub shutdown: Duration,
    /// How long a closed connection is still read, so that its peer sees the last answer and no reset.
    pub linger: Duration,
    /// How long a guest may take to tell its counters to a scrape.
    pub scrape_guest: Duration,
    /// Guests asked at the same time.
    pub scrape_guests_at_once: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            connections_peer_max: 256,
            handshakes_max: 64,
            handshakes_address_max: 16,
            handshake: Duration::from_secs(5),
            header: Duration::from_secs(15),
            headers_max: 64,
            header_bytes_max: 16 * 1024,
            body_stall: Duration::from_secs(10),
            body_bytes_per_s_min: 4 * 1024,
            body_bytes_max: BODY_BYTES_MAX as u64,
            module_bytes_max: MODULE_BYTES_MAX as u64,
            image_bytes_max: IMAGE_BYTES_MAX,
            write_stall: Duration::from_secs(30),
            requests_per_s: 500,
            requests_burst: 1000,
            peers_max: 1024,
            shutdown: Duration::from_secs(5),
            linger: Duration::from_secs(1),
            scrape_guest: Duration::from_millis(250),
            scrape_guests_at_once: 64,
        }
    }
}
