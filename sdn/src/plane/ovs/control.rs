//! The control socket of `ovs-vswitchd` (JSON-RPC, `ovs-appctl(8)`), for the one thing that OpenFlow cannot say.
//!
//! A barrier says that flows are changed, not that frames follow them: Open vSwitch carries frames by a cache of
//! decisions, which threads of its own bring up to date some milliseconds later. `revalidator/purge` empties the cache
//! and answers when it is empty; the next frame of each kind is decided anew, by the flows as they are.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::PlaneError;
use super::connection::unreachable;

const SILENCE: Duration = Duration::from_secs(1);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A standing connection. After an error it is of no more use.
pub(super) struct Control {
    stream: UnixStream,
    at: String,
}

impl Control {
    /// The one of the switch that has this management socket: they lie in one directory, and the control socket has the
    /// process's number in its name. Those of processes that ended refuse.
    pub(super) fn open(management: &Path) -> Result<Self, PlaneError> {
        let directory = management.parent().unwrap_or(Path::new("."));
        let at = directory.join("ovs-vswitchd.*.ctl").display().to_string();
        let listed = sockets(directory).map_err(|source| unreachable(&at, source))?;
        let mut why = io::Error::from(ErrorKind::NotFound);
        for path in listed {
            match UnixStream::connect(&path) {
                Ok(stream) => {
                    let at = path.display().to_string();
                    let timeouts = stream.set_read_timeout(Some(SILENCE));
                    timeouts
                        .and_then(|()| stream.set_write_timeout(Some(SILENCE)))
                        .map_err(|source| unreachable(&at, source))?;
                    return Ok(Self { stream, at });
                }
                Err(source) => why = source,
            }
        }
        Err(unreachable(&at, why))
    }

    /// Returns when no frame is carried by what was decided before. All who send pay: the next frame of each kind takes
    /// some 50 µs longer.
    ///
    /// The cache is emptied twice. Once is not enough: under load, about one time in 300, frames were seen to go the old
    /// way for up to a millisecond after it (3.1); after the second none was.
    pub(super) fn purge(&mut self) -> Result<(), PlaneError> {
        self.purge_once()?;
        self.purge_once()
    }

    fn purge_once(&mut self) -> Result<(), PlaneError> {
        let request = br#"{"id":0,"method":"revalidator/purge","params":[]}"#;
        self.stream.write_all(request).map_err(|source| unreachable(&self.at, source))?;
        let mut answer = Vec::new();
        loop {
            let mut bytes = [0; 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(unreachable(&self.at, ErrorKind::UnexpectedEof.into())),
                Ok(count) => answer.extend(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(unreachable(&self.at, ErrorKind::TimedOut.into()));
                }
                Err(error) => return Err(unreachable(&self.at, error)),
            }
            match serde_json::from_slice::<Answer>(&answer) {
                Ok(Answer { error: None }) => return Ok(()),
                Ok(Answer { error: Some(error) }) => {
                    return Err(self.odd(format!("it does not empty its cache: {error}")));
                }
                Err(error) if error.is_eof() && answer.len() <= ANSWER_BYTES_MAX => {}
                Err(error) => return Err(self.odd(format!("its answer is not JSON-RPC: {error}"))),
            }
        }
    }

    fn odd(&self, how: String) -> PlaneError {
        PlaneError::Protocol { at: self.at.clone(), how }
    }
}

#[derive(serde::Deserialize)]
struct Answer {
    error: Option<serde_json::Value>,
}

fn sockets(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for file in directory.read_dir()? {
        let path = file?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("ovs-vswitchd.") && name.ends_with(".ctl") {
            found.push(path);
        }
    }
    Ok(found)
}
