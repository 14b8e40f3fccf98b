//! What can be wrong with a plane.

use std::io;

/// Why a plane does not do as it is told.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// We may not.
    #[error("no right to {doing}: this needs CAP_NET_ADMIN in the network namespace of the devices; run it as root")]
    Permission {
        /// What was tried.
        doing: String,
    },
    /// A device is not there, or not what it should be.
    #[error("{device}: {how}")]
    Device {
        /// Which.
        device: String,
        /// What is wrong, and what to do.
        how: String,
    },
    /// The kernel or the switch said no.
    #[error("cannot {doing}")]
    Refused {
        /// What was tried.
        doing: String,
        /// What it said.
        source: io::Error,
    },
    /// The switch is not there, or was restarted.
    #[error("the switch at {at} cannot be reached")]
    Unreachable {
        /// Where.
        at: String,
        /// What the system said.
        source: io::Error,
    },
    /// It says what cannot be understood.
    #[error("the switch at {at}: {how}")]
    Protocol {
        /// Where.
        at: String,
        /// What.
        how: String,
    },
    /// A program that is needed is missing or failed.
    #[error("`{program}`: {how}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it said, or what to install.
        how: String,
    },
}
