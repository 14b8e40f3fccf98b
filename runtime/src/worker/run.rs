//! What `roam worker` does: hears its orders, enters the jail, follows them.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use super::{Daemon, Launch, LaunchError, Launched, OrdersError, Task, compile, serve};
use crate::jail::{Jail, Rights, enter};
use crate::sentence::sentence;

/// A panic ends the worker, whichever thread it is in: what Rust programs exit with.
pub(super) const EXIT_PANICKED: i32 = 101;

/// Runs a worker. Only while the process has one thread. Returns its exit code.
pub fn run() -> Result<ExitCode, OrdersError> {
    let daemon = Daemon::from_stdin()?;
    let (launch, files) = daemon.orders()?;
    die_on_panic();
    match obey(launch, files, daemon) {
        Ok(code) => Ok(code),
        Err((daemon, error)) => {
            eprintln!("roam worker: {error}");
            // A daemon that has gone does not need to know.
            let _ = daemon.tell(&Launched::Failed(error));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Follows orders; an error is for the daemon.
fn obey(launch: Launch, files: Vec<OwnedFd>, daemon: Daemon) -> Result<ExitCode, (Daemon, LaunchError)> {
    let rights = match &launch.task {
        Task::Serve { log_half_bytes, .. } => Rights::serve(*log_half_bytes),
        Task::Compile { .. } => Rights::compile(),
    };
    let jail = Jail { root: Path::new(&launch.root), own_user: launch.uid.is_some(), rights };
    let unshared = || daemon.tell(&Launched::Unshared);
    let entered = enter(&jail, daemon.stream(), unshared, |pid| daemon.tell(&Launched::Process { pid }));
    if let Err(error) = entered {
        return Err((daemon, LaunchError::Jail(sentence(&error))));
    }
    match launch.task {
        Task::Serve { .. } => serve::serve(launch.task, files, daemon, launch.leashed),
        Task::Compile { guest } => match compile::compile(guest, files, &daemon) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => Err((daemon, error)),
        },
    }
}

fn die_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("roam worker: {panic}");
        std::process::exit(EXIT_PANICKED);
    }));
}
