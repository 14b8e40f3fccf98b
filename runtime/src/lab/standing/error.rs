//! Why a standing lab could not be raised, used or taken down.

use std::io;
use std::path::PathBuf;

use crate::cert::CertError;
use crate::lab::{LabError, Missing};

/// Why a standing lab could not be raised, used or taken down.
#[derive(Debug, thiserror::Error)]
pub enum StandingError {
    /// A step in a namespace failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The machine cannot do it at all.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// A file of the lab.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The lab's record is damaged.
    #[error("{} cannot be read; `roam lab down --name {lab}` clears away what is there", path.display())]
    Record {
        /// Whose.
        lab: String,
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Certificates for the hosts could not be made.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// What was asked for is not possible.
    #[error("{0}")]
    Shape(String),
    /// The kernel cannot delay frames.
    #[error(
        "this kernel cannot delay frames (no netem, CONFIG_NET_SCH_NETEM): leave --delay out, or load sch_netem where \
         it is a module"
    )]
    NoDelay(#[source] LabError),
    /// A lab of that name is up, and is another.
    #[error("lab {lab} is up with {differs}; `roam lab down --name {lab}` first, or choose another --name")]
    Differs {
        /// Which.
        lab: String,
        /// What is different.
        differs: String,
    },
    /// It is up, but a part is gone.
    #[error("lab {lab} is up, but {missing} is gone; `roam lab down --name {lab}` and raise it again")]
    Broken {
        /// Which.
        lab: String,
        /// What is gone.
        missing: String,
    },
    /// Namespaces of that name are somebody else's.
    #[error("the namespaces of lab {lab} belong to the one in {}: choose another --name", owner.display())]
    Foreign {
        /// Which.
        lab: String,
        /// Whose.
        owner: PathBuf,
    },
    /// There is no such lab.
    #[error("there is no lab {0}; `roam lab up --name {0}` raises one")]
    NoLab(String),
    /// The lab has no such node.
    #[error("lab {lab} has no {node}; it has {nodes}")]
    NoNode {
        /// Which.
        lab: String,
        /// What was asked for.
        node: String,
        /// What there is.
        nodes: String,
    },
    /// The directory is too deep for sockets.
    #[error("{} is too long a path for a socket; set ROAM_LAB_DIR to a shorter one", .0.display())]
    TooDeep(PathBuf),
    /// A daemon did not come up.
    #[error("{daemon} {problem}; the end of its log:\n{log}")]
    Daemon {
        /// Which, in words.
        daemon: String,
        /// What happened.
        problem: String,
        /// The last lines it wrote.
        log: String,
    },
    /// Something would not go.
    #[error("{0} could not be removed")]
    Remains(String),
    /// Somebody asked us to end.
    #[error("interrupted; what was begun has been taken down again")]
    Interrupted,
}

impl StandingError {
    /// An error that says which file; for `map_err`.
    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.into(), source }
    }
}
