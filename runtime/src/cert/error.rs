//! What can be wrong with certificates, in words.

use std::io;
use std::path::PathBuf;

use rustls::{AlertDescription, CertificateError};

/// Why certificates cannot be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key or certificate is there already.
    #[error("{} exists; it is not overwritten: choose another directory, or move it away", .0.display())]
    Exists(PathBuf),
    /// A file that is not what it should be.
    #[error("{} holds no {what} in PEM form", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What the parser said.
        source: rustls::pki_types::pem::Error,
    },
    /// Not a certificate.
    #[error("not a certificate that can be read: {0}")]
    Der(String),
    /// A name that does not fit into a certificate or a file name.
    #[error(
        "`{0}` is no name for a certificate: 1 to 64 of a-z, A-Z, 0-9, `.`, `_`, `@` and `-`, beginning with a letter or digit"
    )]
    Name(String),
    /// A name or address that no server has.
    #[error("`{0}` is neither a host name nor an address")]
    San(String),
    /// An operator is no server.
    #[error("an operator's certificate is for no server, so it takes no --san")]
    OperatorSan,
    /// A time without end.
    #[error("certificates can be valid for 1 s to {} years", super::authority::VALID_YEARS_MAX)]
    Valid,
    /// The authority's certificate and key do not belong together, or it is none.
    #[error("{} is not the certificate of a roam authority", .0.display())]
    NoAuthority(PathBuf),
    /// The maker failed.
    #[error("the certificate could not be made")]
    Make(#[from] rcgen::Error),
    /// Files that TLS does not take.
    #[error("the certificates cannot be used: {}", explain(.0))]
    Tls(#[from] rustls::Error),
    /// The authority cannot be used for checking.
    #[error("{} cannot be used to check certificates", path.display())]
    Verifier {
        /// The authority's file.
        path: PathBuf,
        /// Why.
        source: rustls::server::VerifierBuilderError,
    },
}

/// What a TLS error means to who sees it, and what to do.
pub fn explain(error: &rustls::Error) -> String {
    use rustls::Error::{AlertReceived, InvalidCertificate};
    let text = match error {
        AlertReceived(AlertDescription::CertificateRequired) => "it wants a client certificate; give --tls-dir",
        AlertReceived(AlertDescription::CertificateExpired) => {
            "it says that our certificate has expired; issue a new one with `roam cert issue`"
        }
        AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError,
        ) => "it does not trust our certificate: was it issued by the host's own authority, with a role?",
        AlertReceived(AlertDescription::ProtocolVersion) => "it speaks no TLS 1.3, so it is no roam host",
        InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its certificate has expired; issue a new one with `roam cert issue`"
        }
        InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            "its certificate is not valid yet; is a clock wrong?"
        }
        InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "its certificate is of another authority than ours"
        }
        InvalidCertificate(CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. }) => {
            "its certificate is not for a server: only one issued with `--role host` is"
        }
        InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            "its certificate is for other names than this one; issue one with this name as --san"
        }
        InvalidCertificate(CertificateError::Other(other)) => return other.to_string(),
        _ => "no TLS connection came about",
    };
    text.to_owned()
}
