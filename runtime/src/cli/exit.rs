//! Exit codes.

use std::fmt;
use std::io;
use std::process::ExitCode;

use crate::api::ErrorCode;
use crate::api::client::{ClientError, EndpointError};

/// It ran and failed, or found what it looks for.
pub(super) const FAILED: u8 = 1;
/// The command line, the environment or a file of settings cannot be understood.
pub(super) const USAGE: u8 = 2;
/// The host could not be reached, or does not trust us.
pub(super) const UNREACHABLE: u8 = 3;
/// There is no such guest, module or host.
pub(super) const NOT_FOUND: u8 = 4;
/// The host refused: a name or address is taken, a guest in the wrong state, no right to do it.
pub(super) const REFUSED: u8 = 5;
/// It is not known how it ended.
pub(super) const UNSETTLED: u8 = 6;

/// What the help of a command that speaks to hosts ends with.
pub(super) const HELP: &str = "Exit codes: 0 done; 1 it failed; 2 usage; 3 a host cannot be reached; \
4 there is no such guest, module or host; 5 the host refused";

/// The user's doing: exit code 2.
#[derive(Debug)]
pub(super) struct Usage(pub(super) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// There is no such host, by any name known here: exit code 4.
#[derive(Debug)]
pub(super) struct Unknown(pub(super) String);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unknown {}

/// What is there is not what was asked for: exit code 5, as if the host had refused.
#[derive(Debug)]
pub(super) struct Refused(pub(super) String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// What was begun goes on, or has ended, out of sight: exit code 6.
#[derive(Debug)]
pub(super) struct Unsettled(pub(super) String);

impl fmt::Display for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unsettled {}

/// Some of several things failed, each of which has been reported: the worst code.
#[derive(Debug)]
pub(super) struct Reported(pub(super) u8);

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not everything succeeded")
    }
}

impl std::error::Error for Reported {}

/// The code that goes with an error.
pub(super) fn of(error: &anyhow::Error) -> u8 {
    // A context of `anyhow` is no link of the chain by its type.
    if error.is::<Unsettled>() {
        return UNSETTLED;
    }
    error.chain().find_map(code).unwrap_or(FAILED)
}

fn code(error: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(Reported(code)) = error.downcast_ref() {
        return Some(*code);
    }
    if error.is::<Usage>() {
        return Some(USAGE);
    }
    if error.is::<Unknown>() {
        return Some(NOT_FOUND);
    }
    if error.is::<Refused>() {
        return Some(REFUSED);
    }
    if let Some(error) = error.downcast_ref::<EndpointError>() {
        return Some(if matches!(error, EndpointError::Certificates(_)) { FAILED } else { USAGE });
    }
    let error = error.downcast_ref::<ClientError>()?;
    Some(match error.code() {
        None if error.is_unreachable() => UNREACHABLE,
        None | Some(ErrorCode::Internal) => FAILED,
        Some(ErrorCode::NotFound) => NOT_FOUND,
        Some(_) => REFUSED,
    })
}

/// Whether the error is that nobody reads our output any more, which is no failure: `roam ps | head -1`.
fn is_unread(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<super::print::Unread>());
    causes.next().is_some()
}

/// Says what went wrong, and ends with its code.
pub(super) fn report(error: &anyhow::Error) -> ExitCode {
    if is_unread(error) {
        return ExitCode::SUCCESS;
    }
    if !error.chain().any(|cause| cause.is::<Reported>()) {
        complain(error);
    }
    ExitCode::from(of(error))
}

/// One line on standard error.
pub(super) fn complain(error: &anyhow::Error) {
    use io::Write;
    // A source whose words its parent has already said is not said again.
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
    }
    let _ = writeln!(io::stderr(), "roam: {line}");
}
