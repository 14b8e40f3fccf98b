//! The deterministic part of WASI preview 1, so that modules for `wasm32-wasip1` load.
//!
//! Clock, random, arguments, environment and `proc_exit` are the guest's own, stdout and stderr are lines of its log
//! (info and warn), and there is no file: `fd_prestat_get` says `EBADF`, as libc's start-up expects where nothing is
//! opened for it. Everything else returns `ENOSYS`. Pointers are checked as everywhere; errors are positive here.

use roam_abi::{Errno, LogLevel, limits};
use wasmtime::{Caller, Extern, Linker, Module, Result, Val};

use super::imports::with_bytes;
use super::world::{Exit, World};

pub(super) const MODULE: &str = "wasi_snapshot_preview1";

const IMPLEMENTED: [&str; 12] = [
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_prestat_get",
    "fd_write",
    "proc_exit",
    "random_get",
    "sched_yield",
    "fd_prestat_dir_name",
];

/// Known, so that a module that imports them loads, but not offered.
const NOT_OFFERED: [&str; 34] = [
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_raise",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// Buffers one `fd_write` may gather.
const IOVECS_MAX: u32 = 1024;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
/// The resolution `clock_res_get` reports: the guest's clock counts nanoseconds.
const CLOCK_RESOLUTION_NS: u64 = 1;

/// Whether a module may import that name.
pub(super) fn is_known(name: &str) -> bool {
    IMPLEMENTED.contains(&name) || NOT_OFFERED.contains(&name)
}

type Call<'a> = Caller<'a, World>;

/// Defines what is offered, and what `module` imports beyond that as `ENOSYS`.
pub(super) fn define(linker: &mut Linker<World>, module: &Module) -> Result<()> {
    if !module.imports().any(|import| import.module() == MODULE) {
        return Ok(());
    }
    define_clock_and_random(linker)?;
    define_lists(linker)?;
    define_files(linker)?;
    for import in module.imports().filter(|import| import.module() == MODULE && NOT_OFFERED.contains(&import.name())) {
        if let Some(ty) = import.ty().func() {
            linker.func_new(MODULE, import.name(), ty.clone(), |_caller, _params, results| {
                results.fill(Val::I32(errno(Errno::NOSYS)));
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn define_clock_and_random(linker: &mut Linker<World>) -> Result<()> {
    linker.func_wrap(MODULE, "clock_res_get", |mut caller: Call<'_>, _id: u32, at: u32| {
        write(&mut caller, at, &CLOCK_RESOLUTION_NS.to_le_bytes())
    })?;
    linker.func_wrap(MODULE, "clock_time_get", |mut caller: Call<'_>, id: u32, _precision: i64, at: u32| {
        let now_ns = match id {
            roam_abi::CLOCK_REALTIME => caller.data().realtime_ns(),
            // Monotonic, and the CPU time of process and thread: all are the guest's own time.
            1..=3 => caller.data().monotonic_ns(),
            _ => return errno(Errno::INVAL),
        };
        write(&mut caller, at, &now_ns.to_le_bytes())
    })?;
    linker.func_wrap(MODULE, "random_get", |mut caller: Call<'_>, ptr: u32, len: u32| {
        if len as usize > limits::RANDOM_BYTES_MAX {
            return errno(Errno::INVAL);
        }
        positive(with_bytes(&mut caller, ptr, len, |bytes, world| world.random_fill(bytes)))
    })?;
    linker.func_wrap(MODULE, "proc_exit", |code: i32| -> Result<()> { Err(wasmtime::Error::new(Exit(code))) })?;
    linker.func_wrap(MODULE, "sched_yield", || 0i32)?;
    Ok(())
}

fn define_lists(linker: &mut Linker<World>) -> Result<()> {
    linker.func_wrap(MODULE, "args_sizes_get", |mut caller: Call<'_>, count: u32, bytes: u32| {
        sizes(&mut caller, |world| &world.args, count, bytes)
    })?;
    linker.func_wrap(MODULE, "args_get", |mut caller: Call<'_>, pointers: u32, bytes: u32| {
        strings(&mut caller, |world| &world.args, pointers, bytes)
    })?;
    linker.func_wrap(MODULE, "environ_sizes_get", |mut caller: Call<'_>, count: u32, bytes: u32| {
        sizes(&mut caller, |world| &world.env, count, bytes)
    })?;
    linker.func_wrap(MODULE, "environ_get", |mut caller: Call<'_>, pointers: u32, bytes: u32| {
        strings(&mut caller, |world| &world.env, pointers, bytes)
    })?;
    Ok(())
}

fn define_files(linker: &mut Linker<World>) -> Result<()> {
    linker.func_wrap(MODULE, "fd_prestat_get", |_fd: u32, _at: u32| errno(Errno::BADF))?;
    linker.func_wrap(MODULE, "fd_prestat_dir_name", |_fd: u32, _at: u32, _len: u32| errno(Errno::BADF))?;
    linker.func_wrap(MODULE, "fd_write", |mut caller: Call<'_>, fd: u32, iovecs: u32, count: u32, written: u32| {
        let level = match fd {
            STDOUT => LogLevel::Info,
            STDERR => LogLevel::Warn,
            _ => return errno(Errno::BADF),
        };
        match gather(&mut caller, iovecs, count) {
            Ok(text) => {
                for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    caller.data_mut().log(level, line);
                }
                write(&mut caller, written, &(text.len() as u32).to_le_bytes())
            }
            Err(error) => errno(error),
        }
    })?;
    Ok(())
}

/// The bytes of an iovec array, at most [`limits::LOG_LINE_BYTES_MAX`] lines' worth: a longer write is a short one.
fn gather(caller: &mut Call<'_>, iovecs: u32, count: u32) -> std::result::Result<Vec<u8>, Errno> {
    const WRITE_BYTES_MAX: usize = 16 * limits::LOG_LINE_BYTES_MAX;
    if count > IOVECS_MAX {
        return Err(Errno::INVAL);
    }
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else { return Err(Errno::FAULT) };
    let memory = memory.data(&*caller);
    let range = |at: u32, len: u32| memory.get(at as usize..)?.get(..len as usize);
    let mut text = Vec::new();
    for iovec in range(iovecs, count * 8).ok_or(Errno::FAULT)?.as_chunks::<8>().0 {
        let [a, b, c, d, e, f, g, h] = *iovec;
        let bytes = range(u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])).ok_or(Errno::FAULT)?;
        text.extend_from_slice(&bytes[..bytes.len().min(WRITE_BYTES_MAX - text.len())]);
    }
    Ok(text)
}

fn sizes(caller: &mut Call<'_>, list: fn(&World) -> &Vec<String>, count: u32, bytes: u32) -> i32 {
    let entries = list(caller.data());
    let (entries, total) = (entries.len() as u32, entries.iter().map(|entry| entry.len() as u32 + 1).sum::<u32>());
    match write(caller, count, &entries.to_le_bytes()) {
        0 => write(caller, bytes, &total.to_le_bytes()),
        failed => failed,
    }
}

fn strings(caller: &mut Call<'_>, list: fn(&World) -> &Vec<String>, pointers: u32, bytes: u32) -> i32 {
    let mut table = Vec::new();
    let mut text = Vec::new();
    for entry in list(caller.data()) {
        table.extend_from_slice(&bytes.wrapping_add(text.len() as u32).to_le_bytes());
        text.extend_from_slice(entry.as_bytes());
        text.push(0);
    }
    match write(caller, pointers, &table) {
        0 => write(caller, bytes, &text),
        failed => failed,
    }
}

fn write(caller: &mut Call<'_>, at: u32, bytes: &[u8]) -> i32 {
    positive(with_bytes(caller, at, bytes.len() as u32, |target, _world| target.copy_from_slice(bytes)))
}

fn errno(errno: Errno) -> i32 {
    i32::from(errno.raw())
}

/// roam's imports return errors negative, WASI's positive.
fn positive(returned: i32) -> i32 {
    -returned
}
