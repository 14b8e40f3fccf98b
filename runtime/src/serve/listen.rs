//! The doors: a unix socket with file permissions, and TCP with certificates.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{Gid, chown};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;

/// Longest path of a socket, bytes (`sun_path` of unix(7), its NUL and our suffix while it is being made).
const PATH_BYTES_MAX: usize = 100;

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another daemon serves there.
    #[error("another daemon serves on {}; stop it, or choose another --run-dir", .0.display())]
    Live(PathBuf),
    /// Something else has that name.
    #[error("{} is there and is no socket; move it away, or choose another --run-dir", .0.display())]
    NoSocket(PathBuf),
    /// The path is too long for a socket.
    #[error("{}: a socket's path has at most {PATH_BYTES_MAX} bytes; choose a shorter --run-dir", .0.display())]
    Long(PathBuf),
    /// The socket.
    #[error("cannot listen on {}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// TCP.
    #[error("cannot listen on {address}")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// A listening unix socket. Its file goes with it.
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// For the owner only, or for a group as well. A socket nobody listens on any more is replaced.
    pub(crate) async fn bind(path: PathBuf, group: Option<Gid>) -> Result<Self, ListenError> {
        if path.as_os_str().len() > PATH_BYTES_MAX {
            return Err(ListenError::Long(path));
        }
        check_vacant(&path).await?;
        let failed = |source| ListenError::Socket { path: path.clone(), source };
        // Made under another name, so that it is never there with other permissions than it shall have.
        let fresh = path.with_extension("new");
        let (listener, inode) = Self::make(&fresh, group).map_err(failed)?;
        let placed = fs::rename(&fresh, &path).and_then(|()| open_directory(&path, group));
        placed.map_err(failed)?;
        Ok(Self { listener, path, inode })
    }

    fn make(fresh: &Path, group: Option<Gid>) -> io::Result<(UnixListener, u64)> {
        match fs::remove_file(fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(fresh)?;
        if let Some(group) = group {
            chown(fresh, None, Some(group))?;
        }
        fs::set_permissions(fresh, Permissions::from_mode(if group.is_some() { 0o660 } else { 0o600 }))?;
        Ok((listener, fs::metadata(fresh)?.ino()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Unless a later daemon has put its own there.
        if fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn check_vacant(path: &Path) -> Result<(), ListenError> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ListenError::Socket { path: path.to_owned(), source }),
    };
    if !there.file_type().is_socket() {
        return Err(ListenError::NoSocket(path.to_owned()));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        // A full backlog or a missing permission are signs of life, too.
        _ => Err(ListenError::Live(path.to_owned())),
    }
}

/// The group must get through the directory to the socket; it sees no other name in it.
fn open_directory(path: &Path, group: Option<Gid>) -> io::Result<()> {
    let (Some(group), Some(directory)) = (group, path.parent()) else { return Ok(()) };
    chown(directory, None, Some(group))?;
    fs::set_permissions(directory, Permissions::from_mode(0o710))
}

/// A listening TCP socket whose connections speak TLS.
pub(crate) struct Tcp {
    listener: TcpListener,
    address: SocketAddr,
    pub(crate) acceptor: TlsAcceptor,
}

impl Tcp {
    pub(crate) async fn bind(address: SocketAddr, config: Arc<ServerConfig>) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Tcp { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, acceptor: TlsAcceptor::from(config) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.listener.accept().await
    }
}
