//! The module's exports: [`Netstack`]'s calls one to one, with addresses, events and buffers in linear memory.
//!
//! A call that can fail returns a negated [`Errno`]. What a call returns a pointer to stays valid until the next call.
//! The module imports nothing.

use core::ptr::addr_of_mut;

use alloc::{boxed::Box, vec, vec::Vec};
use roam_abi::{ADDRESS_BYTES, Address, Errno, Event, NO_DEADLINE, SocketOption, limits::EVENTS_MAX};

use super::panic;
use crate::{CONFIG_BYTES_MAX, Config, Netstack, SocketId, SocketInfo, Stats};

/// What the exports work on.
struct Module {
    config: Vec<u8>,
    netstack: Option<Box<Netstack>>,
    address: [u8; ADDRESS_BYTES],
    events: [Event; EVENTS_MAX],
    info: [u8; SocketInfo::BYTES],
    layout: [u32; LAYOUT_WORDS],
}

/// rx_ptr, rx_len, tx_ptr, tx_len, address_ptr, events_ptr, events_cap, stats_ptr, stats_count, panic_ptr,
/// info_ptr.
const LAYOUT_WORDS: usize = 11;

static mut MODULE: Module = Module {
    config: Vec::new(),
    netstack: None,
    address: [0; ADDRESS_BYTES],
    events: [Event { socket: 0, flags: 0 }; EVENTS_MAX],
    info: [0; SocketInfo::BYTES],
    layout: [0; LAYOUT_WORDS],
};

fn module() -> &'static mut Module {
    // SAFETY: the module has one thread, and each export calls this once, so the reference is the only one.
    unsafe { &mut *addr_of_mut!(MODULE) }
}

impl Module {
    fn netstack(&mut self) -> Result<&mut Netstack, Errno> {
        self.netstack.as_deref_mut().ok_or(Errno::INVAL)
    }

    fn address(&self) -> Result<core::net::SocketAddr, Errno> {
        Address::from_bytes(&self.address).map(|address| address.0)
    }

    /// What was written last.
    fn config(&self) -> Result<Config, Errno> {
        postcard::from_bytes(&self.config).map_err(|_| Errno::INVAL)
    }

    fn init(&mut self) -> Result<(), Errno> {
        if self.netstack.is_some() {
            return Err(Errno::INVAL);
        }
        let netstack = Netstack::new(&self.config()?).map_err(|_| Errno::INVAL)?;
        let netstack = self.netstack.insert(Box::new(netstack));
        let (rx, tx) = netstack.ring_memory();
        self.layout = [
            rx.as_ptr() as u32,
            rx.len() as u32,
            tx.as_ptr() as u32,
            tx.len() as u32,
            self.address.as_ptr() as u32,
            self.events.as_ptr() as u32,
            EVENTS_MAX as u32,
            core::ptr::from_ref(netstack.stats()) as u32,
            Stats::NAMES.len() as u32,
            panic::address(),
            self.info.as_ptr() as u32,
        ];
        Ok(())
    }

    /// Runs a call that returns a socket.
    fn open(&mut self, call: impl FnOnce(&mut Netstack, core::net::SocketAddr) -> Result<SocketId, Errno>) -> i32 {
        let address = match self.address() {
            Ok(address) => address,
            Err(errno) => return errno.to_result(),
        };
        match self.netstack().and_then(|netstack| call(netstack, address)) {
            Ok(SocketId(id)) => id as i32,
            Err(errno) => errno.to_result(),
        }
    }

    /// Runs a call that returns nothing.
    fn run(&mut self, call: impl FnOnce(&mut Netstack) -> Result<(), Errno>) -> i32 {
        match self.netstack().and_then(call) {
            Ok(()) => 0,
            Err(errno) => errno.to_result(),
        }
    }

    /// Runs a call that returns an address.
    fn tell(&mut self, call: impl FnOnce(&Netstack) -> Result<core::net::SocketAddr, Errno>) -> i32 {
        match self.netstack().and_then(|netstack| call(netstack)) {
            Ok(address) => {
                self.address = Address(address).to_bytes();
                0
            }
            Err(errno) => errno.to_result(),
        }
    }
}

/// A buffer as the host gets it: length above, address below.
fn buffer(result: Result<(*const u8, usize), Errno>) -> i64 {
    match result {
        Ok((start, len)) => ((len as i64) << 32) | i64::from(start as u32),
        Err(errno) => errno.to_result().into(),
    }
}

fn size(bytes: i32) -> usize {
    bytes.max(0) as usize
}

/// Where to write `len` bytes of postcard-encoded [`Config`], for `init` or `readdress`; 0 for too many.
#[unsafe(export_name = "config")]
extern "C" fn config(len: i32) -> *mut u8 {
    if size(len) > CONFIG_BYTES_MAX {
        return core::ptr::null_mut();
    }
    let module = module();
    module.config = vec![0; size(len)];
    module.config.as_mut_ptr()
}

/// Starts the stack with the configuration that was written. Once.
#[unsafe(export_name = "init")]
extern "C" fn init() -> i32 {
    match module().init() {
        Ok(()) => 0,
        Err(errno) => errno.to_result(),
    }
}

/// Where everything lies: [`LAYOUT_WORDS`] words.
#[unsafe(export_name = "layout")]
extern "C" fn layout() -> *const u32 {
    module().layout.as_ptr()
}

/// Bit 0: events are ready. Bit 1: poll again.
#[unsafe(export_name = "poll")]
extern "C" fn poll(now_ns: i64) -> i32 {
    match module().netstack() {
        Ok(netstack) => {
            let polled = netstack.poll(now_ns);
            i32::from(polled.ready) | i32::from(polled.again) << 1
        }
        Err(errno) => errno.to_result(),
    }
}

/// Has the next poll say whose the own addresses are.
#[unsafe(export_name = "announce")]
extern "C" fn announce() -> i32 {
    module().run(|netstack| {
        netstack.announce();
        Ok(())
    })
}

/// Draws all random numbers from another seed.
#[unsafe(export_name = "reseed")]
extern "C" fn reseed(seed: i64) -> i32 {
    module().run(|netstack| {
        netstack.reseed(seed as u64);
        Ok(())
    })
}

/// Takes the addresses of the configuration that was written; [`Errno::INVAL`] for one that is not possible.
#[unsafe(export_name = "readdress")]
extern "C" fn readdress() -> i32 {
    let module = module();
    match module.config() {
        Ok(config) => module.run(|netstack| netstack.readdress(&config).map_err(|_| Errno::INVAL)),
        Err(errno) => errno.to_result(),
    }
}

#[unsafe(export_name = "deadline")]
extern "C" fn deadline() -> i64 {
    module().netstack().ok().and_then(|netstack| netstack.deadline()).unwrap_or(NO_DEADLINE)
}

#[unsafe(export_name = "ready")]
extern "C" fn ready(cap: i32) -> i32 {
    let Module { netstack, events, .. } = module();
    let cap = size(cap).min(EVENTS_MAX);
    netstack.as_deref_mut().map_or(0, |netstack| netstack.ready(&mut events[..cap])) as i32
}

#[unsafe(export_name = "udp_open")]
extern "C" fn udp_open(rx_bytes: i32, tx_bytes: i32) -> i32 {
    module().open(|netstack, local| netstack.udp_open(local, size(rx_bytes), size(tx_bytes)))
}

#[unsafe(export_name = "icmp_open")]
extern "C" fn icmp_open(ident: i32, rx_bytes: i32, tx_bytes: i32) -> i32 {
    let Ok(ident) = u16::try_from(ident) else { return Errno::INVAL.to_result() };
    match module().netstack().and_then(|netstack| netstack.icmp_open(ident, size(rx_bytes), size(tx_bytes))) {
        Ok(SocketId(id)) => id as i32,
        Err(errno) => errno.to_result(),
    }
}

#[unsafe(export_name = "tcp_listen")]
extern "C" fn tcp_listen(backlog: i32, rx_bytes: i32, tx_bytes: i32) -> i32 {
    module().open(|netstack, local| netstack.tcp_listen(local, size(backlog), size(rx_bytes), size(tx_bytes)))
}

#[unsafe(export_name = "tcp_connect")]
extern "C" fn tcp_connect(rx_bytes: i32, tx_bytes: i32) -> i32 {
    module().open(|netstack, to| netstack.tcp_connect(to, size(rx_bytes), size(tx_bytes)))
}

#[unsafe(export_name = "accept")]
extern "C" fn accept(socket: u32) -> i32 {
    let module = module();
    match module.netstack().and_then(|netstack| netstack.accept(SocketId(socket))) {
        Ok((SocketId(id), peer)) => {
            module.address = Address(peer).to_bytes();
            id as i32
        }
        Err(errno) => errno.to_result(),
    }
}

#[unsafe(export_name = "send_to")]
extern "C" fn send_to(socket: u32, len: i32) -> i64 {
    let module = module();
    let result = module.address().and_then(|to| module.netstack()?.send_to(SocketId(socket), to, size(len)));
    buffer(result.map(|slot| (slot.as_ptr(), slot.len())))
}

#[unsafe(export_name = "recv_from")]
extern "C" fn recv_from(socket: u32) -> i64 {
    let module = module();
    match module.netstack().and_then(|netstack| netstack.recv_from(SocketId(socket))) {
        Ok((bytes, from)) => {
            let found = (bytes.as_ptr(), bytes.len());
            module.address = Address(from).to_bytes();
            buffer(Ok(found))
        }
        Err(errno) => buffer(Err(errno)),
    }
}

#[unsafe(export_name = "send")]
extern "C" fn send(socket: u32, len_max: i32) -> i64 {
    let result = module().netstack().and_then(|netstack| netstack.send(SocketId(socket), size(len_max)));
    buffer(result.map(|slot| (slot.as_ptr(), slot.len())))
}

#[unsafe(export_name = "recv")]
extern "C" fn recv(socket: u32, cap: i32) -> i64 {
    let result = module().netstack().and_then(|netstack| netstack.recv(SocketId(socket), size(cap)));
    buffer(result.map(|bytes| (bytes.as_ptr(), bytes.len())))
}

#[unsafe(export_name = "shutdown")]
extern "C" fn shutdown(socket: u32) -> i32 {
    module().run(|netstack| netstack.shutdown(SocketId(socket)))
}

#[unsafe(export_name = "close")]
extern "C" fn close(socket: u32) -> i32 {
    module().run(|netstack| netstack.close(SocketId(socket)))
}

#[unsafe(export_name = "abort")]
extern "C" fn abort(socket: u32) -> i32 {
    module().run(|netstack| netstack.abort(SocketId(socket)))
}

#[unsafe(export_name = "set_option")]
extern "C" fn set_option(socket: u32, option: i32, value: i64) -> i32 {
    match SocketOption::from_raw(option as u32) {
        Some(option) => module().run(|netstack| netstack.set_option(SocketId(socket), option, value)),
        None => Errno::INVAL.to_result(),
    }
}

#[unsafe(export_name = "local_addr")]
extern "C" fn local_addr(socket: u32) -> i32 {
    module().tell(|netstack| netstack.local_addr(SocketId(socket)))
}

#[unsafe(export_name = "peer_addr")]
extern "C" fn peer_addr(socket: u32) -> i32 {
    module().tell(|netstack| netstack.peer_addr(SocketId(socket)))
}

/// Leaves the first socket at or after a place in the table at `info_ptr` and returns its place; -1 when there is none
/// left, and the record is cleared: looking leaves no trace.
#[unsafe(export_name = "inspect")]
extern "C" fn inspect(from: u32) -> i32 {
    let module = module();
    match module.netstack.as_deref().and_then(|netstack| netstack.inspect(from)) {
        Some((index, info)) => {
            module.info = info.to_bytes();
            index as i32
        }
        None => {
            module.info = [0; SocketInfo::BYTES];
            -1
        }
    }
}
