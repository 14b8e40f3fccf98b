//! The imports of module `roam`, made safe: slices become pointers and lengths, numbers become results.

use roam_abi::{ADDRESS_BYTES, Errno, LogLevel, SocketOption};

/// The imports as [`roam_abi::Import`] lists them. `safe`: whatever the arguments, they touch no guest memory.
mod import {
    #[link(wasm_import_module = "roam")]
    unsafe extern "C" {
        pub(super) safe fn clock(id: u32) -> i64;
        pub(super) fn random(ptr: *mut u8, len: usize) -> i32;
        pub(super) fn log(level: u32, ptr: *const u8, len: usize) -> i32;
        pub(super) safe fn exit(code: i32) -> !;
        pub(super) fn arg(index: u32, ptr: *mut u8, cap: usize) -> i32;
        pub(super) fn env(index: u32, ptr: *mut u8, cap: usize) -> i32;
        pub(super) fn udp_open(addr: *const u8, rx_bytes: u32, tx_bytes: u32) -> i32;
        pub(super) safe fn icmp_open(ident: u32, rx_bytes: u32, tx_bytes: u32) -> i32;
        pub(super) fn send_to(socket: u32, ptr: *const u8, len: usize, addr: *const u8) -> i32;
        pub(super) fn recv_from(socket: u32, ptr: *mut u8, cap: usize, addr: *mut u8) -> i32;
        pub(super) fn tcp_listen(addr: *const u8, backlog: u32, rx_bytes: u32, tx_bytes: u32) -> i32;
        pub(super) fn accept(socket: u32, addr: *mut u8) -> i32;
        pub(super) fn tcp_connect(addr: *const u8, rx_bytes: u32, tx_bytes: u32) -> i32;
        pub(super) fn send(socket: u32, ptr: *const u8, len: usize) -> i32;
        pub(super) fn recv(socket: u32, ptr: *mut u8, cap: usize) -> i32;
        pub(super) safe fn shutdown(socket: u32) -> i32;
        pub(super) safe fn close(socket: u32) -> i32;
        pub(super) safe fn abort(socket: u32) -> i32;
        pub(super) safe fn set_option(socket: u32, option: u32, value: i64) -> i32;
        pub(super) fn local_addr(socket: u32, addr: *mut u8) -> i32;
        pub(super) fn peer_addr(socket: u32, addr: *mut u8) -> i32;
        pub(super) fn ready(ptr: *mut u8, cap: usize) -> i32;
    }
}

pub(crate) type AddressBytes = [u8; ADDRESS_BYTES];

pub(crate) fn clock(id: u32) -> i64 {
    import::clock(id)
}

pub(crate) fn random(bytes: &mut [u8]) -> Result<u32, Errno> {
    // SAFETY: pointer and length are one live exclusive slice, which the host only fills.
    Errno::check(unsafe { import::random(bytes.as_mut_ptr(), bytes.len()) })
}

pub(crate) fn log(level: LogLevel, line: &str) {
    // SAFETY: pointer and length are one live slice, which the host only reads.
    // A line that could not be logged has nowhere else to go.
    let _ = unsafe { import::log(level as u32, line.as_ptr(), line.len()) };
}

pub(crate) fn exit(code: i32) -> ! {
    import::exit(code)
}

pub(crate) fn arg(index: u32, bytes: &mut [u8]) -> Result<u32, Errno> {
    // SAFETY: pointer and length are one live exclusive slice, which the host only fills.
    Errno::check(unsafe { import::arg(index, bytes.as_mut_ptr(), bytes.len()) })
}

pub(crate) fn env(index: u32, bytes: &mut [u8]) -> Result<u32, Errno> {
    // SAFETY: pointer and length are one live exclusive slice, which the host only fills.
    Errno::check(unsafe { import::env(index, bytes.as_mut_ptr(), bytes.len()) })
}

pub(crate) fn udp_open(address: &AddressBytes, rx_bytes: u32, tx_bytes: u32) -> Result<u32, Errno> {
    // SAFETY: the address is a live array of the size the host reads.
    Errno::check(unsafe { import::udp_open(address.as_ptr(), rx_bytes, tx_bytes) })
}

pub(crate) fn icmp_open(ident: u16, rx_bytes: u32, tx_bytes: u32) -> Result<u32, Errno> {
    Errno::check(import::icmp_open(u32::from(ident), rx_bytes, tx_bytes))
}

pub(crate) fn send_to(socket: u32, bytes: &[u8], address: &AddressBytes) -> Result<u32, Errno> {
    // SAFETY: both pointers are of live slices of the sizes the host reads.
    Errno::check(unsafe { import::send_to(socket, bytes.as_ptr(), bytes.len(), address.as_ptr()) })
}

pub(crate) fn recv_from(socket: u32, bytes: &mut [u8], address: &mut AddressBytes) -> Result<u32, Errno> {
    // SAFETY: both pointers are of live exclusive slices of the sizes the host fills at most.
    Errno::check(unsafe { import::recv_from(socket, bytes.as_mut_ptr(), bytes.len(), address.as_mut_ptr()) })
}

pub(crate) fn tcp_listen(address: &AddressBytes, backlog: u32, rx_bytes: u32, tx_bytes: u32) -> Result<u32, Errno> {
    // SAFETY: the address is a live array of the size the host reads.
    Errno::check(unsafe { import::tcp_listen(address.as_ptr(), backlog, rx_bytes, tx_bytes) })
}

pub(crate) fn accept(socket: u32, address: &mut AddressBytes) -> Result<u32, Errno> {
    // SAFETY: the address is a live exclusive array of the size the host fills.
    Errno::check(unsafe { import::accept(socket, address.as_mut_ptr()) })
}

pub(crate) fn tcp_connect(address: &AddressBytes, rx_bytes: u32, tx_bytes: u32) -> Result<u32, Errno> {
    // SAFETY: the address is a live array of the size the host reads.
    Errno::check(unsafe { import::tcp_connect(address.as_ptr(), rx_bytes, tx_bytes) })
}

pub(crate) fn send(socket: u32, bytes: &[u8]) -> Result<u32, Errno> {
    // SAFETY: pointer and length are one live slice, which the host only reads.
    Errno::check(unsafe { import::send(socket, bytes.as_ptr(), bytes.len()) })
}

pub(crate) fn recv(socket: u32, bytes: &mut [u8]) -> Result<u32, Errno> {
    // SAFETY: pointer and length are one live exclusive slice, which the host only fills.
    Errno::check(unsafe { import::recv(socket, bytes.as_mut_ptr(), bytes.len()) })
}

pub(crate) fn shutdown(socket: u32) -> Result<u32, Errno> {
    Errno::check(import::shutdown(socket))
}

pub(crate) fn close(socket: u32) -> Result<u32, Errno> {
    Errno::check(import::close(socket))
}

pub(crate) fn abort(socket: u32) -> Result<u32, Errno> {
    Errno::check(import::abort(socket))
}

pub(crate) fn set_option(socket: u32, option: SocketOption, value: i64) -> Result<u32, Errno> {
    Errno::check(import::set_option(socket, option as u32, value))
}

pub(crate) fn local_addr(socket: u32, address: &mut AddressBytes) -> Result<u32, Errno> {
    // SAFETY: the address is a live exclusive array of the size the host fills.
    Errno::check(unsafe { import::local_addr(socket, address.as_mut_ptr()) })
}

pub(crate) fn peer_addr(socket: u32, address: &mut AddressBytes) -> Result<u32, Errno> {
    // SAFETY: the address is a live exclusive array of the size the host fills.
    Errno::check(unsafe { import::peer_addr(socket, address.as_mut_ptr()) })
}

pub(crate) fn ready<const BYTES: usize>(events: &mut [[u8; BYTES]]) -> Result<u32, Errno> {
    // SAFETY: pointer and count are one live exclusive slice of events, which the host only fills.
    Errno::check(unsafe { import::ready(events.as_mut_ptr().cast(), events.len()) })
}
