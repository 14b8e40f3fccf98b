//! The guest's netstack: a second module in the same store, called by the host on the guest's behalf.

use roam_abi::{ADDRESS_BYTES, Errno, Event};
use roam_netstack::{Config, Ring, SocketInfo};
use wasmtime::{AsContext, AsContextMut, Instance, Memory, Module, Store, TypedFunc, WasmParams, WasmResults};

use super::exports::Exports;
use super::world::World;
use super::{StartError, Stopped, stopped};

/// The netstack trapped; the message is what it said last.
#[derive(Debug, thiserror::Error)]
#[error("netstack: {0}")]
pub(super) struct StackFailed(pub(super) String);

/// What one netstack poll reports.
#[derive(Clone, Copy)]
pub(super) struct StackPolled {
    /// The guest has events to fetch.
    pub(super) ready: bool,
    /// Frames remain: drain the tx ring and poll again.
    pub(super) again: bool,
}

/// Counters of a netstack in the order of [`roam_netstack::Stats::NAMES`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackCounters(Vec<u64>);

impl StackCounters {
    /// Name and value of each counter.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        roam_netstack::Stats::NAMES.iter().copied().zip(self.0.iter().copied())
    }

    /// One counter; `None` if there is none of that name.
    pub fn named(&self, name: &str) -> Option<u64> {
        self.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }
}

/// Addresses inside the netstack's memory that never change after `init`. They are read from there, and kept in the
/// [`World`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Layout {
    rx: (u32, u32),
    tx: (u32, u32),
    /// Where socket calls take and leave an address.
    pub(super) address: u32,
    /// Where `ready` leaves events.
    pub(super) events: u32,
    /// How many events fit.
    pub(super) events_max: u32,
    stats: (u32, u32),
    panic: u32,
    info: u32,
}

/// Handles of the instance. Without unsafe code wasmtime finds an export by name only, so they are looked up once.
pub(super) struct Stack {
    pub(super) memory: Memory,
    pub(super) exports: Exports,
    /// Where the layout is: the address of a static.
    layout_at: u32,
    poll: TypedFunc<i64, i32>,
    deadline: TypedFunc<(), i64>,
    pub(super) ready: TypedFunc<u32, i32>,
    pub(super) udp_open: TypedFunc<(u32, u32), i32>,
    pub(super) icmp_open: TypedFunc<(u32, u32, u32), i32>,
    pub(super) tcp_listen: TypedFunc<(u32, u32, u32), i32>,
    pub(super) tcp_connect: TypedFunc<(u32, u32), i32>,
    pub(super) send_to: TypedFunc<(u32, u32), i64>,
    pub(super) recv_from: TypedFunc<u32, i64>,
    pub(super) send: TypedFunc<(u32, u32), i64>,
    pub(super) recv: TypedFunc<(u32, u32), i64>,
    pub(super) accept: TypedFunc<u32, i32>,
    pub(super) shutdown: TypedFunc<u32, i32>,
    pub(super) close: TypedFunc<u32, i32>,
    pub(super) abort: TypedFunc<u32, i32>,
    pub(super) set_option: TypedFunc<(u32, u32, i64), i32>,
    pub(super) local_addr: TypedFunc<u32, i32>,
    pub(super) peer_addr: TypedFunc<u32, i32>,
    inspect: TypedFunc<u32, i32>,
    announce: TypedFunc<(), i32>,
    config: TypedFunc<u32, u32>,
    reseed: TypedFunc<u64, i32>,
    readdress: TypedFunc<(), i32>,
}

impl Stack {
    /// Instantiates and configures a netstack.
    pub(super) fn start(store: &mut Store<World>, module: &Module, config: &Config) -> Result<Self, StartError> {
        config.check()?;
        store.data_mut().in_stack = true;
        let stack = Self::instantiate(store, module, config);
        store.data_mut().in_stack = false;
        stack
    }

    fn instantiate(store: &mut Store<World>, module: &Module, config: &Config) -> Result<Self, StartError> {
        let instance = Instance::new(&mut *store, module, &[]).map_err(StartError::Instantiate)?;
        let memory = instance.get_memory(&mut *store, "memory").expect("our netstack exports its memory");
        configure(store, instance, memory, config)?;
        let layout_at = call_export::<(), u32>(store, instance, "layout", ())?;
        store.data_mut().layout =
            Layout::read(memory.data(&*store), layout_at).expect("our netstack's layout is inside its memory");
        Ok(Self {
            memory,
            exports: Exports::of(&mut *store, instance, module),
            layout_at,
            poll: export(store, instance, "poll")?,
            deadline: export(store, instance, "deadline")?,
            ready: export(store, instance, "ready")?,
            udp_open: export(store, instance, "udp_open")?,
            icmp_open: export(store, instance, "icmp_open")?,
            tcp_listen: export(store, instance, "tcp_listen")?,
            tcp_connect: export(store, instance, "tcp_connect")?,
            send_to: export(store, instance, "send_to")?,
            recv_from: export(store, instance, "recv_from")?,
            send: export(store, instance, "send")?,
            recv: export(store, instance, "recv")?,
            accept: export(store, instance, "accept")?,
            shutdown: export(store, instance, "shutdown")?,
            close: export(store, instance, "close")?,
            abort: export(store, instance, "abort")?,
            set_option: export(store, instance, "set_option")?,
            local_addr: export(store, instance, "local_addr")?,
            peer_addr: export(store, instance, "peer_addr")?,
            inspect: export(store, instance, "inspect")?,
            announce: export(store, instance, "announce")?,
            config: export(store, instance, "config")?,
            reseed: export(store, instance, "reseed")?,
            readdress: export(store, instance, "readdress")?,
        })
    }

    /// Calls one of the exports; a trap becomes [`StackFailed`] with the netstack's last words.
    pub(super) fn call<P: WasmParams, R: WasmResults>(
        &self,
        mut store: impl AsContextMut<Data = World>,
        function: &TypedFunc<P, R>,
        params: P,
    ) -> wasmtime::Result<R> {
        store.as_context_mut().data_mut().in_stack = true;
        let result = function.call(&mut store, params);
        store.as_context_mut().data_mut().in_stack = false;
        result.map_err(|trap| {
            let message = self.last_words(&store);
            trap.context(StackFailed(message))
        })
    }

    pub(super) fn poll(&self, store: &mut Store<World>, now_ns: i64) -> Result<StackPolled, Stopped> {
        let bits = self.call(store, &self.poll, now_ns).map_err(stopped)?;
        Ok(StackPolled { ready: bits & 1 != 0, again: bits & 2 != 0 })
    }

    pub(super) fn deadline_ns(&self, store: &mut Store<World>) -> Result<i64, Stopped> {
        self.call(store, &self.deadline, ()).map_err(stopped)
    }

    pub(super) fn announce(&self, store: &mut Store<World>) -> Result<(), Stopped> {
        self.call(store, &self.announce, ()).map(drop).map_err(stopped)
    }

    pub(super) fn reseed(&self, store: &mut Store<World>, seed: u64) -> Result<(), Stopped> {
        self.call(store, &self.reseed, seed).map(drop).map_err(stopped)
    }

    /// With a configuration that was checked.
    pub(super) fn readdress(&self, store: &mut Store<World>, config: &Config) -> Result<(), Stopped> {
        let bytes = encoded(config);
        let len = u32::try_from(bytes.len()).expect("a configuration is small");
        let at = self.call(&mut *store, &self.config, len).map_err(stopped)?;
        self.memory.data_mut(&mut *store)[at as usize..][..bytes.len()].copy_from_slice(&bytes);
        let result = self.call(store, &self.readdress, ()).map_err(stopped)?;
        Errno::check(result).map(drop).map_err(|errno| {
            let message = format!("it refused its new addresses: {errno}");
            Stopped::Netstack { message: message.clone(), source: wasmtime::Error::new(StackFailed(message)) }
        })
    }

    /// The layout as it is in memory now; `None` if that is no netstack's.
    pub(super) fn read_layout(&self, store: impl AsContext) -> Option<Layout> {
        Layout::read(self.memory.data(&store), self.layout_at)
    }

    /// Drops all pending events.
    pub(super) fn discard_events(&self, store: &mut Store<World>) -> Result<(), Stopped> {
        let events_max = store.data().layout.events_max;
        while self.call(&mut *store, &self.ready, events_max).map_err(stopped)? > 0 {}
        Ok(())
    }

    pub(super) fn rx<'a>(&self, store: &'a mut Store<World>) -> Ring<'a> {
        let at = store.data().layout.rx;
        self.ring(store, at)
    }

    pub(super) fn tx<'a>(&self, store: &'a mut Store<World>) -> Ring<'a> {
        let at = store.data().layout.tx;
        self.ring(store, at)
    }

    fn ring<'a>(&self, store: &'a mut Store<World>, (start, len): (u32, u32)) -> Ring<'a> {
        let bytes = &mut self.memory.data_mut(store)[start as usize..][..len as usize];
        Ring::attach(bytes).expect("the netstack keeps its rings in order, and nobody else can write to them")
    }

    pub(super) fn counters(&self, store: impl AsContext<Data = World>) -> StackCounters {
        let (start, count) = store.as_context().data().layout.stats;
        let bytes = &self.memory.data(&store)[start as usize..][..count as usize * 8];
        StackCounters(bytes.as_chunks().0.iter().map(|value| u64::from_le_bytes(*value)).collect())
    }

    /// All sockets, in the order of the netstack's table.
    pub(super) fn sockets(&self, store: &mut Store<World>) -> Result<Vec<SocketInfo>, Stopped> {
        let (mut sockets, mut next) = (Vec::new(), 0);
        while let Ok(index) = u32::try_from(self.call(&mut *store, &self.inspect, next).map_err(stopped)?) {
            let info = store.data().layout.info;
            let bytes = self.memory.data(&*store).get(info as usize..).and_then(|rest| rest.first_chunk());
            sockets.extend(bytes.and_then(SocketInfo::from_bytes));
            next = index + 1;
        }
        Ok(sockets)
    }

    fn last_words(&self, store: impl AsContext<Data = World>) -> String {
        let start = store.as_context().data().layout.panic;
        let memory = self.memory.data(&store);
        let words = || memory.get(start as usize + 4..)?.get(..read_u32(memory, start)? as usize);
        match words() {
            None | Some([]) => "no message".into(),
            Some(text) => String::from_utf8_lossy(text).into_owned(),
        }
    }
}

impl Layout {
    /// `None` if it, or what it says, is not inside that memory.
    fn read(memory: &[u8], at: u32) -> Option<Self> {
        let word = |index: u32| read_u32(memory, at.checked_add(4 * index)?);
        let layout = Self {
            rx: (word(0)?, word(1)?),
            tx: (word(2)?, word(3)?),
            address: word(4)?,
            events: word(5)?,
            events_max: word(6)?,
            stats: (word(7)?, word(8)?),
            panic: word(9)?,
            info: word(10)?,
        };
        let is_inside = |(start, len): (u32, u64)| u64::from(start) + len <= memory.len() as u64;
        let ranges = [
            (layout.rx.0, layout.rx.1.into()),
            (layout.tx.0, layout.tx.1.into()),
            (layout.address, ADDRESS_BYTES as u64),
            (layout.events, u64::from(layout.events_max) * Event::BYTES as u64),
            (layout.stats.0, u64::from(layout.stats.1) * 8),
            (layout.panic, 4),
            (layout.info, SocketInfo::BYTES as u64),
        ];
        // Memory that is all zeros has none: its rings would have no room.
        (layout.rx.1 > 0 && layout.tx.1 > 0 && ranges.into_iter().all(is_inside)).then_some(layout)
    }
}

fn encoded(config: &Config) -> Vec<u8> {
    postcard::to_allocvec(config).expect("a configuration is plain data")
}

fn configure(store: &mut Store<World>, instance: Instance, memory: Memory, config: &Config) -> Result<(), StartError> {
    let bytes = encoded(config);
    let len = u32::try_from(bytes.len()).expect("a configuration is small");
    let at = call_export::<u32, u32>(store, instance, "config", len)?;
    memory.data_mut(&mut *store)[at as usize..][..bytes.len()].copy_from_slice(&bytes);
    let result = call_export::<(), i32>(store, instance, "init", ())?;
    Errno::check(result).map(|_| ()).map_err(|errno| {
        let message = format!("the netstack refused its configuration: {errno}");
        StartError::Instantiate(wasmtime::Error::new(StackFailed(message)))
    })
}

fn export<P: WasmParams, R: WasmResults>(
    store: &mut Store<World>,
    instance: Instance,
    name: &'static str,
) -> Result<TypedFunc<P, R>, StartError> {
    instance.get_typed_func(store, name).map_err(StartError::Instantiate)
}

fn call_export<P: WasmParams, R: WasmResults>(
    store: &mut Store<World>,
    instance: Instance,
    name: &'static str,
    params: P,
) -> Result<R, StartError> {
    export(store, instance, name)?.call(store, params).map_err(StartError::Instantiate)
}

fn read_u32(memory: &[u8], at: u32) -> Option<u32> {
    memory.get(at as usize..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}
