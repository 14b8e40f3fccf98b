//! Who may speak to a host: a private certificate authority and what its certificates say.
//!
//! A certificate names its holder (common name) and its **role**, the subject's organisational unit: `operator` or
//! `host`. Only the authority's signature makes that true, and it issues no authorities below itself. A host's
//! certificate is for both sides of a connection and lists the names it is reached by; an operator's is for the
//! client's side only. TLS 1.3 alone, ECDSA P-256; who has no valid certificate with a role gets no further than the
//! handshake.

mod authority;
mod error;
mod files;
mod identity;
mod tls;

pub use authority::{Authority, Issue, Issued};
pub use error::{CertError, explain};
pub use files::TlsFiles;
pub use identity::{Identity, Role};
pub use tls::{client_config, migration_configs, server_config};

#[cfg(test)]
mod tests;
