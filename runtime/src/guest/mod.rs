//! One guest: its module and its netstack in one store, moved by [`Guest::poll`].
//!
//! ```text
//!            frames in              readiness            socket calls
//!  rx ring ───────────> netstack ─────────────> guest ─────────────────> netstack ──> tx ring
//!                        poll(now)               roam_poll(now)           poll(now)
//! ```
//!
//! Nothing here opens a file, a socket, a thread or a clock: time, randomness and frames are arguments. The same
//! inputs therefore give the same outputs ([`Guest::step`], [`Inputs`], [`Outputs`]), on any machine.
//!
//! State, all of it: the linear memories and mutable globals of both modules, the guest's clock and random generator,
//! and the frames in the two rings, which are netstack memory. [`Guest::save`] takes it but for the memories, which are
//! copied as they are ([`Guest::memories`]); [`Guest::waiting`] makes a guest to put it into ([`Guest::install`]). A copy
//! that is to run beside the original becomes another host by [`Guest::reseed`] and [`Guest::readdress`].

mod exports;
mod imports;
mod memories;
mod renew;
mod saved;
mod stack;
mod step;
mod wasi;
mod world;

use std::sync::Arc;

use roam_abi::limits;
use roam_netstack::{Ring, SocketInfo};
use wasmtime::{Instance, Linker, Store, TypedFunc};

pub(crate) use imports::is_known_import;
pub use memories::{GrowError, GuestMemory, ImageRun, MapError};
pub use renew::ReaddressError;
pub use saved::{InstallError, SavedGuest};
pub use stack::StackCounters;
pub use step::{Frame, Inputs, Outputs};
pub(crate) use world::stack_bytes_max;
pub use world::{LOG_LINES_PER_POLL_MAX, LogLine};

use crate::engine::{Engine, GuestModule, ModuleHash, Refusal};
use crate::net::Polled;
use exports::Exports;
use stack::Stack;
use world::World;

/// Memory of the netstack beside its rings and its sockets' buffers: code's data, socket tables, the allocator's slack.
/// Apart from the guest's own limit.
const NETSTACK_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How often one [`Guest::poll`] lets the guest run before it returns to frame I/O.
const ROUNDS_MAX: usize = 4;

/// What a guest is started with. Two guests of the same module and configuration behave the same.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// Arguments, the first being the program's name.
    pub args: Vec<String>,
    /// Environment, `KEY=value`.
    pub env: Vec<String>,
    /// Addresses, MTU and rings. Its `seed` is replaced by one drawn from [`Self::seed`].
    pub network: roam_netstack::Config,
    /// Limit of the guest's linear memories together, in bytes.
    pub memory_bytes_max: usize,
    /// Seed of the guest's random generator. A move keeps the generator's state, a clone gets a new seed.
    pub seed: [u8; 32],
    /// Wall-clock time of the guest's first poll, nanoseconds since 1970.
    pub epoch_ns: i64,
}

/// Why a guest could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its module is not one this host runs.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Arguments or environment over [`limits::ARGS_MAX`] or [`limits::ARGS_BYTES_MAX`], or with a NUL inside.
    #[error(
        "arguments and environment: at most {} entries and {} bytes each, without NUL",
        limits::ARGS_MAX,
        limits::ARGS_BYTES_MAX
    )]
    Arguments,
    /// Its network configuration is not possible.
    #[error("the network configuration is not possible")]
    Network(#[from] roam_netstack::ConfigError),
    /// Its memories could not be made, for example because the module's initial memory is over the limit.
    #[error("the guest could not be instantiated")]
    Instantiate(#[source] wasmtime::Error),
    /// The memories of the image it is to be restored from could not be made.
    #[error("the guest's memories cannot become as large as the image's")]
    Grow(#[from] GrowError),
    /// The image could not be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
    /// It ended while it was being started.
    #[error("the guest ended while it was being started")]
    Stopped(#[from] Stopped),
}

/// Why a guest runs no more. The host goes on.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// It called `exit` (or WASI's `proc_exit`).
    #[error("the guest exited with code {code}")]
    Exited {
        /// 0 for success.
        code: i32,
    },
    /// It panicked, or did what WebAssembly forbids. The source has the reason and the wasm stack.
    #[error("the guest trapped")]
    Trapped(#[source] wasmtime::Error),
    /// Its netstack failed, which is a fault of roam's.
    #[error("the guest's netstack failed: {message}")]
    Netstack {
        /// What the netstack said last.
        message: String,
        /// The trap.
        #[source]
        source: wasmtime::Error,
    },
}

/// A running guest.
pub struct Guest {
    store: Store<World>,
    stack: Arc<Stack>,
    exports: Exports,
    /// The guest's own and the netstack's.
    modules: [ModuleHash; 2],
    poll: TypedFunc<i64, i64>,
    deadline_ns: i64,
    /// See [`GuestMemory::unseen_bytes`].
    unseen_bytes: Vec<u64>,
}

impl Guest {
    /// Instantiates the netstack and the guest. The guest's own code runs at the first [`Self::poll`] (but for a start
    /// function and `_initialize`, which run here).
    pub fn start(
        engine: &Engine,
        module: &GuestModule,
        netstack: &GuestModule,
        config: &GuestConfig,
    ) -> Result<Self, StartError> {
        let (mut guest, instance) = Self::instantiate(engine, module, netstack, config)?;
        if let Ok(initialize) = instance.get_typed_func::<(), ()>(&mut guest.store, "_initialize") {
            initialize.call(&mut guest.store, ()).map_err(|error| StartError::Stopped(stopped(error)))?;
        }
        Ok(guest)
    }

    /// Instantiates a guest that is to be another: it must not be polled, nor its rings touched, before it was given that
    /// one's memories and state. Of its own code only a start function runs; what that leaves in memory is forgotten.
    pub fn waiting(
        engine: &Engine,
        module: &GuestModule,
        netstack: &GuestModule,
        config: &GuestConfig,
    ) -> Result<Self, StartError> {
        let (mut guest, _) = Self::instantiate(engine, module, netstack, config)?;
        guest.take_log();
        guest.reset_memories().map_err(|errno| StartError::Instantiate(wasmtime::Error::new(errno)))?;
        Ok(guest)
    }

    fn instantiate(
        engine: &Engine,
        module: &GuestModule,
        netstack: &GuestModule,
        config: &GuestConfig,
    ) -> Result<(Self, Instance), StartError> {
        check_args(&config.args)?;
        check_args(&config.env)?;
        let mut store = Store::new(engine.wasmtime(), World::new(config));
        store.limiter(|world| world);
        let mut network = config.network.clone();
        network.seed = store.data_mut().random_u64();
        let stack = Arc::new(Stack::start(&mut store, &netstack.module, &network)?);
        let mut linker = Linker::new(engine.wasmtime());
        imports::define(&mut linker, &stack).map_err(StartError::Instantiate)?;
        wasi::define(&mut linker, &module.module).map_err(StartError::Instantiate)?;
        let (instance, poll) = instantiate_guest(&mut store, &linker, module)?;
        let exports = Exports::of(&mut store, instance, &module.module);
        let modules = [module.hash(), netstack.hash()];
        let mut guest = Self { store, stack, exports, modules, poll, deadline_ns: 0, unseen_bytes: Vec::new() };
        guest.prefer_huge();
        Ok((guest, instance))
    }

    /// Takes in the frames of the rx ring, lets the guest work until it would block, and puts frames into the tx ring.
    ///
    /// `now_ns` is the guest's clock; it never goes back (an earlier value counts as the last one).
    pub fn poll(&mut self, now_ns: i64) -> Result<Polled, Stopped> {
        let now_ns = self.store.data_mut().advance(now_ns);
        let mut polled = self.stack.poll(&mut self.store, now_ns)?;
        for _ in 0..ROUNDS_MAX {
            if !polled.ready && now_ns < self.deadline_ns {
                return Ok(Polled { again: polled.again });
            }
            self.deadline_ns = self.poll_guest(now_ns)?;
            let frames_remain = polled.again;
            polled = self.stack.poll(&mut self.store, now_ns)?;
            polled.again |= frames_remain;
        }
        Ok(Polled { again: true })
    }

    /// Has the next [`Self::poll`] tell everybody on the link which MAC the guest's addresses are at: when it begins to
    /// serve, and when it goes on somewhere else. An input like any other: see [`Inputs::announce`].
    pub fn announce(&mut self) -> Result<(), Stopped> {
        self.stack.announce(&mut self.store)
    }

    /// When the next [`Self::poll`] is due even if no frame arrives, on the guest's clock.
    pub fn deadline_ns(&mut self) -> Result<Option<i64>, Stopped> {
        let deadline_ns = self.stack.deadline_ns(&mut self.store)?.min(self.deadline_ns);
        Ok((deadline_ns != roam_abi::NO_DEADLINE).then_some(deadline_ns))
    }

    /// Where the host puts received frames.
    pub fn rx(&mut self) -> Ring<'_> {
        self.stack.rx(&mut self.store)
    }

    /// Where the host finds frames to send.
    pub fn tx(&mut self) -> Ring<'_> {
        self.stack.tx(&mut self.store)
    }

    /// The guest's log lines since the last call.
    pub fn take_log(&mut self) -> Vec<LogLine> {
        self.store.data_mut().take_log()
    }

    /// The netstack's counters.
    pub fn counters(&self) -> StackCounters {
        self.stack.counters(&self.store)
    }

    /// Its sockets, those the guest has closed and whose last bytes are on their way included. Changes nothing a guest
    /// could notice.
    pub fn sockets(&mut self) -> Result<Vec<SocketInfo>, Stopped> {
        self.stack.sockets(&mut self.store)
    }

    /// Bytes of the guest's and the netstack's linear memories.
    pub fn memory_bytes(&self) -> usize {
        let guest = self.store.data().memory.map_or(0, |memory| memory.data_size(&self.store));
        guest + self.stack.memory.data_size(&self.store)
    }

    fn poll_guest(&mut self, now_ns: i64) -> Result<i64, Stopped> {
        self.store.data_mut().fetched_events = false;
        let deadline_ns = self.poll.call(&mut self.store, now_ns).map_err(stopped)?;
        if !self.store.data().fetched_events {
            // A guest that tries all its sockets at every poll never asks; its events would be news forever.
            self.stack.discard_events(&mut self.store)?;
        }
        Ok(deadline_ns)
    }
}

fn instantiate_guest(
    store: &mut Store<World>,
    linker: &Linker<World>,
    module: &GuestModule,
) -> Result<(Instance, TypedFunc<i64, i64>), StartError> {
    let instance = linker.instantiate(&mut *store, &module.module).map_err(instantiation_failed)?;
    store.data_mut().memory = instance.get_memory(&mut *store, "memory");
    let version = instance.get_typed_func::<(), u32>(&mut *store, "roam_abi_version");
    let found = version.and_then(|version| version.call(&mut *store, ())).map_err(instantiation_failed)?;
    if found != roam_abi::VERSION {
        return Err(Refusal::AbiVersion { found, supported: roam_abi::VERSION }.into());
    }
    let poll = instance.get_typed_func(&mut *store, "roam_poll").map_err(instantiation_failed)?;
    Ok((instance, poll))
}

fn instantiation_failed(error: wasmtime::Error) -> StartError {
    if error.is::<wasmtime::Trap>() || error.is::<world::Exit>() || error.is::<stack::StackFailed>() {
        return StartError::Stopped(stopped(error));
    }
    let text = format!("{error:#}");
    if text.contains("incompatible import type") {
        return StartError::Refused(Refusal::ImportType(text));
    }
    StartError::Instantiate(error)
}

/// Sorts what ended a call into wasm.
fn stopped(error: wasmtime::Error) -> Stopped {
    if let Some(world::Exit(code)) = error.downcast_ref() {
        return Stopped::Exited { code: *code };
    }
    if let Some(stack::StackFailed(message)) = error.downcast_ref() {
        return Stopped::Netstack { message: message.clone(), source: error };
    }
    Stopped::Trapped(error)
}

fn check_args(args: &[String]) -> Result<(), StartError> {
    let bytes: usize = args.iter().map(|arg| arg.len() + 1).sum();
    if args.len() > limits::ARGS_MAX || bytes > limits::ARGS_BYTES_MAX || args.iter().any(|arg| arg.contains('\0')) {
        return Err(StartError::Arguments);
    }
    Ok(())
}
