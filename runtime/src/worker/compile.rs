//! The worker that compiles one module.
//!
//! Modules come from whoever may deploy, and a compiler is a large program: so it runs in a jail, too, on a file to read
//! and one to write, within a limit of CPU time and memory.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::thread;

use nix::sys::signal::{SigSet, Signal};

use super::{Daemon, LaunchError, Launched};
use crate::engine::{Engine, LoadError, MODULE_BYTES_MAX};
use crate::jail::COMPILE_CPU_S_MAX;
use crate::jail::seccomp::{Role, lock};
use crate::sentence::sentence;

/// Compiles [`super::Descriptor::Source`] into [`super::Descriptor::Artifact`].
pub(super) fn compile(guest: bool, files: Vec<OwnedFd>, daemon: &Daemon) -> Result<(), LaunchError> {
    let jail = |error: &dyn std::error::Error| LaunchError::Jail(sentence(error));
    let [source, artifact] =
        files.try_into().map_err(|_others| LaunchError::Jail("2 descriptors go with it".into()))?;
    let late = daemon.stream().try_clone().map_err(|error| jail(&error))?;
    let watcher = daemon.watcher().map_err(|error| jail(&error))?;
    lock(Role::Compile).map_err(|error| jail(&error))?;
    let time_is_up = SigSet::from(Signal::SIGXCPU);
    time_is_up.thread_block().map_err(|error| jail(&error))?;
    let watch = move || {
        if time_is_up.wait().is_ok() {
            give_up(late);
        }
    };
    thread::Builder::new().name("limit".into()).spawn(watch).map_err(|error| jail(&error))?;
    // A daemon that has gone wants no module.
    let leave = move || {
        watcher.wait_until_gone();
        std::process::exit(1);
    };
    thread::Builder::new().name("daemon".into()).spawn(leave).map_err(|error| jail(&error))?;
    let compiled = read(source).and_then(|bytes| compiled(&bytes, guest))?;
    File::from(artifact)
        .write_all(&compiled)
        .map_err(|error| LaunchError::Module(format!("the compiled module cannot be written: {error}")))?;
    let _ = daemon.tell(&Launched::Ready);
    Ok(())
}

fn compiled(bytes: &[u8], guest: bool) -> Result<Vec<u8>, LaunchError> {
    let compiled = Engine::new(None).and_then(|engine| engine.compile_artifact(bytes, guest));
    compiled.map_err(|error| match error {
        LoadError::Refused(_) | LoadError::Compile(_) => LaunchError::Refused(sentence(&error)),
        error => LaunchError::Module(sentence(&error)),
    })
}

fn read(source: OwnedFd) -> Result<Vec<u8>, LaunchError> {
    let mut bytes = Vec::new();
    // One byte more than there may be: then it is refused for its size.
    let read = File::from(source).take(MODULE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| LaunchError::Module(format!("the module cannot be read: {error}")))?;
    Ok(bytes)
}

/// Compilers can be made to work for ages. The other threads cannot be stopped, but the process can.
fn give_up(daemon: std::os::unix::net::UnixStream) {
    let reason = format!("compiling the module takes more than {COMPILE_CPU_S_MAX} s of CPU time");
    if let Ok(message) = super::frame::encode(&Launched::Failed(LaunchError::Refused(reason))) {
        let _ = (&daemon).write_all(&message);
    }
    std::process::exit(1);
}
