//! Certificates and keys as files.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{CertError, Role};

/// Largest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The files one proves oneself by, and checks others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// One's own.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// `ca.pem` and `ROLE.pem`, `ROLE.key` in a directory, as `roam cert issue --out` writes them.
    pub fn in_dir(dir: &Path, role: Role) -> Self {
        Self {
            ca: dir.join("ca.pem"),
            certificate: dir.join(format!("{role}.pem")),
            key: dir.join(format!("{role}.key")),
        }
    }

    pub(super) fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, CertError> {
        certificates(&self.ca)
    }

    pub(super) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, CertError> {
        certificates(&self.certificate)
    }

    pub(super) fn private_key(&self) -> Result<PrivateKeyDer<'static>, CertError> {
        PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(|source| CertError::Pem {
            path: self.key.clone(),
            what: "private key",
            source,
        })
    }
}

/// All certificates of a PEM file; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let pem = |source| CertError::Pem { path: path.to_owned(), what: "certificate", source };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let read = read.map_err(pem)?;
    if read.is_empty() { Err(pem(rustls::pki_types::pem::Error::NoItemsFound)) } else { Ok(read) }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, CertError> {
    let failed = |source| CertError::File { path: path.to_owned(), source };
    let size_bytes = fs::metadata(path).map_err(failed)?.len();
    if size_bytes > FILE_BYTES_MAX {
        return Err(failed(io::Error::other(format!("{size_bytes} bytes are too many for a certificate or key"))));
    }
    fs::read(path).map_err(failed)
}

/// Writes a file that does not exist yet. Half of one is taken away again.
pub(super) fn write_new(path: &Path, content: &str, mode: u32) -> Result<(), CertError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => CertError::Exists(path.to_owned()),
        _ => CertError::File { path: path.to_owned(), source },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    let written = file.write_all(content.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // The error that matters is the one of writing.
        let _ = fs::remove_file(path);
        failed(error)
    })
}
