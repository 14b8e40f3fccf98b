//! Where a daemon is reached.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::api::sdn;
use crate::cert::{CertError, TlsFiles, client_config};

/// TCP port of a host's API when the URL names none.
pub const PORT: u16 = 7443;

/// Where a host, or the controller, is reached.
#[derive(Clone)]
pub enum Endpoint {
    /// The daemon's socket on this machine.
    Unix(PathBuf),
    /// Mutual TLS over TCP.
    Tls {
        /// Name or address, and port, to connect to.
        address: (String, u16),
        /// The name its certificate must have.
        server_name: ServerName<'static>,
        /// Whom to trust, and who to be.
        config: Arc<ClientConfig>,
    },
}

/// Why a text is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Neither of the two forms.
    #[error("`{url}` is no {what}; write unix:/path/to/{socket} or https://name-or-address:{port}")]
    Form {
        /// The text.
        url: String,
        /// What it should lead to.
        what: &'static str,
        /// What its socket is called.
        socket: &'static str,
        /// Its port.
        port: u16,
    },
    /// TCP without certificates.
    #[error("`{0}` needs certificates; say where they are with --tls-dir")]
    NoCertificates(String),
    /// The certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] CertError),
}

impl Endpoint {
    /// A host's: reads `unix:/path`, or `https://name[:port]` together with the files to prove oneself by.
    pub fn parse(url: &str, tls: Option<&TlsFiles>) -> Result<Self, EndpointError> {
        Self::parse_as(url, tls, "host", "api.sock", PORT)
    }

    /// The controller's, in the same forms.
    pub fn parse_controller(url: &str, tls: Option<&TlsFiles>) -> Result<Self, EndpointError> {
        Self::parse_as(url, tls, "controller", "sdn.sock", sdn::PORT)
    }

    fn parse_as(
        url: &str,
        tls: Option<&TlsFiles>,
        what: &'static str,
        socket: &'static str,
        port: u16,
    ) -> Result<Self, EndpointError> {
        let form = || EndpointError::Form { url: url.chars().take(200).collect(), what, socket, port };
        if let Some(path) = url.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Unix(path)) } else { Err(form()) };
        }
        let authority = url.strip_prefix("https://").ok_or_else(form)?;
        let (name, port) = split_port(authority.strip_suffix('/').unwrap_or(authority), port).ok_or_else(form)?;
        let server_name = ServerName::try_from(name.to_owned()).map_err(|_| form())?;
        let tls = tls.ok_or_else(|| EndpointError::NoCertificates(url.to_owned()))?;
        Ok(Self::Tls { address: (name.to_owned(), port), server_name, config: client_config(tls)? })
    }

    /// What the request's `Host` says.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tls { address, .. } => authority(address),
        }
    }
}

/// `name`, `name:1`, `10.0.0.1:1`, `[fd90::1]:1`.
fn split_port(authority: &str, default: u16) -> Option<(&str, u16)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (name, rest) = rest.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((name, port.parse().ok()?)),
            None => rest.is_empty().then_some((name, default)),
        };
    }
    match authority.split_once(':') {
        Some((name, port)) => Some((name, port.parse().ok()?)),
        None => Some((authority, default)),
    }
}

fn authority((name, port): &(String, u16)) -> String {
    if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") }
}

/// As [`Endpoint::parse`] reads it.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tls { address, .. } => write!(f, "https://{}", authority(address)),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        assert_eq!(split_port("host-a", PORT), Some(("host-a", PORT)));
        assert_eq!(split_port("host-a:1", PORT), Some(("host-a", 1)));
        assert_eq!(split_port("[fd90::1]:1", PORT), Some(("fd90::1", 1)));
        assert_eq!(split_port("[fd90::1]", PORT), Some(("fd90::1", PORT)));
        for text in ["host:", "host:x", "host:65536", "fd90::1", "[fd90::1", "[fd90::1]1"] {
            assert_eq!(split_port(text, PORT), None, "{text}");
        }
    }

    #[test]
    fn forms() {
        assert!(matches!(Endpoint::parse("unix:/run/roam/api.sock", None), Ok(Endpoint::Unix(_))));
        assert!(matches!(Endpoint::parse("https://host-a", None), Err(EndpointError::NoCertificates(_))));
        let error = Endpoint::parse_controller("host-a", None).unwrap_err().to_string();
        assert!(error.contains("no controller") && error.ends_with(":7444"), "{error}");
        for url in ["", "unix:", "unix:relative", "http://host-a", "host-a", "https://", "https://a b", "https://:1"] {
            assert!(matches!(Endpoint::parse(url, None), Err(EndpointError::Form { .. })), "{url}");
        }
    }
}
