//! Why a lab could not be, or not go on.

use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::sentence::sentence;

/// What this machine lacks: a reason to skip, not a failure.
#[derive(Debug, Error)]
pub enum Missing {
    /// A program, and the Debian package that has it.
    #[error("{tool} is not installed: apt-get install {package}")]
    Tool {
        /// Its file name.
        tool: &'static str,
        /// The Debian package.
        package: &'static str,
    },
    /// Network namespaces.
    #[error("no network namespaces here: run as root, in a container with --privileged")]
    Namespaces {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// User namespaces, the way to network namespaces for whom is not root.
    #[error(
        "this kernel gives user namespaces to root only: run as root, or as root set one of \
         kernel.unprivileged_userns_clone=1, user.max_user_namespaces=10000, \
         kernel.apparmor_restrict_unprivileged_userns=0 with sysctl"
    )]
    UserNamespaces {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// TAP devices.
    #[error("this user cannot make TAP devices: as root, modprobe tun; chmod 666 /dev/net/tun")]
    Tap {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Why a step in a lab failed.
#[derive(Debug, Error)]
pub enum LabError {
    /// The machine cannot do it at all.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// A system call failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A command ended with an error.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it wrote to its standard error.
        output: String,
    },
    /// A command or a process did not do in time what it should.
    #[error("`{command}`: not done after {limit:?}: {output}")]
    Timeout {
        /// The command line.
        command: String,
        /// How long it had.
        limit: Duration,
        /// What it wrote so far to its standard error.
        output: String,
    },
}

impl LabError {
    /// What happened and why, in one line: the error and its sources.
    pub fn line(&self) -> String {
        sentence(self)
    }

    /// An [`LabError::Io`] that says what was tried; for `map_err`.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_each_cause_once() {
        let source = || io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(LabError::io("opening it")(source()).line(), "opening it: permission denied");
        let line = LabError::from(Missing::Tap { source: source() }).line();
        assert_eq!(line.matches("permission denied").count(), 1, "{line}");
    }
}
