//! Why a demo could not take place.

use std::io;
use std::path::PathBuf;

use crate::api::client::ClientError;
use crate::cert::CertError;
use crate::lab::{LabError, Missing};
use crate::load::LoadError;

/// Why a demo could not take place.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A step in a namespace failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The machine cannot do it at all.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// Certificates for the hosts could not be made.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// A host did not do what it was asked for.
    #[error("{host} could not {what}")]
    Host {
        /// Which.
        host: String,
        /// What.
        what: String,
        /// What it said.
        #[source]
        source: Box<ClientError>,
    },
    /// Nothing can be waited for.
    #[error("no runtime to wait with")]
    Runtime(#[source] io::Error),
    /// Load could not be offered.
    #[error("no load for guest {guest}")]
    Load {
        /// To which guest.
        guest: &'static str,
        /// Why.
        #[source]
        source: LoadError,
    },
    /// There is no directory that a file system of the demo's own could cover.
    #[error(
        "the demo's files need one of /mnt, /srv, /media and /opt that neither roam, its guests nor this directory is in"
    )]
    NoPlace,
    /// The file system of the demo's own could not be had.
    #[error("mounting a file system in memory over {}, for this process only", place.display())]
    Place {
        /// Where.
        place: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The picture could not be drawn.
    #[error("drawing {}: {problem}", path.display())]
    Picture {
        /// Where to.
        path: PathBuf,
        /// What is wrong with it, in the words of who draws it.
        problem: String,
    },
    /// Somebody asked us to end.
    #[error("interrupted; nothing is left behind")]
    Interrupted,
}
