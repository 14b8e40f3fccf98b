//! What a controller says no with.

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Incarnation, Name};
use crate::plane::PlaneError;
use crate::store::StoreError;
use crate::table::Refused;

/// Why something asked of the controller is not done. What a store or a plane said is its source.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ControllerError {
    /// The table does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It could not be made durable, and so did not happen.
    #[error("not done, because it cannot be kept on disk")]
    NotKept(#[source] Arc<StoreError>),
    /// It rests on what the controller may have forgotten.
    #[error(
        "the controller is of incarnation {now}, not {said}: addresses it granted in the last moments of the other may be \
         forgotten, so the other host must be heard first; where it is gone for good, `roam route move` decides"
    )]
    Unsettled {
        /// What the asker knew.
        said: Incarnation,
        /// What counts.
        now: Incarnation,
    },
    /// No address is called so.
    #[error("there is no address `{0}`; `roam route ls` lists them by MAC, IP and name")]
    NoSuch(String),
    /// Several addresses are called so.
    #[error("several addresses are called {0}; say which by its MAC or IP")]
    Ambiguous(Name),
    /// It is the controller's own node.
    #[error("{0} is the controller's own node and stays; stop the controller instead")]
    OwnNode(Name),
    /// It is an address of the controller's own node.
    #[error("{0} is an address of the controller's own node; choose another")]
    OwnAddress(IpAddr),
    /// It cannot be told what passed.
    #[error("the counters cannot be read")]
    Counters(#[source] Arc<PlaneError>),
    /// The controller is going down.
    #[error("the controller is going down; ask again when it is back")]
    Closing,
}

/// Why a controller cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The table cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The data plane cannot be used.
    #[error(transparent)]
    Plane(#[from] PlaneError),
    /// The table does not take this node.
    #[error(transparent)]
    Join(#[from] ControllerError),
    /// No thread.
    #[error("a thread cannot be started")]
    Thread(#[source] std::io::Error),
}
