//! What stands for the imports outside a guest: sockets are not supported, log lines go to stderr.
//!
//! It lets the pure parts of a guest be tested with `cargo test`.

use roam_abi::{ADDRESS_BYTES, Errno, LogLevel, SocketOption};

pub(crate) type AddressBytes = [u8; ADDRESS_BYTES];

pub(crate) fn clock(_id: u32) -> i64 {
    0
}

pub(crate) fn random(_bytes: &mut [u8]) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

pub(crate) fn log(level: LogLevel, line: &str) {
    eprintln!("{level:?}: {line}");
}

pub(crate) fn exit(code: i32) -> ! {
    std::process::exit(code)
}

pub(crate) fn arg(_index: u32, _bytes: &mut [u8]) -> Result<u32, Errno> {
    Err(Errno::NOENT)
}

pub(crate) fn env(_index: u32, _bytes: &mut [u8]) -> Result<u32, Errno> {
    Err(Errno::NOENT)
}

pub(crate) fn udp_open(_address: &AddressBytes, _rx_bytes: u32, _tx_bytes: u32) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

pub(crate) fn icmp_open(_ident: u16, _rx_bytes: u32, _tx_bytes: u32) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

pub(crate) fn send_to(_socket: u32, _bytes: &[u8], _address: &AddressBytes) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

pub(crate) fn recv_from(_socket: u32, _bytes: &mut [u8], _address: &mut AddressBytes) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

pub(crate) fn tcp_listen(_address: &AddressBytes, _backlog: u32, _rx_bytes: u32, _tx_bytes: u32) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

pub(crate) fn accept(_socket: u32, _address: &mut AddressBytes) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

pub(crate) fn tcp_connect(_address: &AddressBytes, _rx_bytes: u32, _tx_bytes: u32) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

pub(crate) fn send(_socket: u32, _bytes: &[u8]) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

pub(crate) fn recv(_socket: u32, _bytes: &mut [u8]) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

pub(crate) fn shutdown(_socket: u32) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

pub(crate) fn close(_socket: u32) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

pub(crate) fn abort(_socket: u32) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

pub(crate) fn set_option(_socket: u32, _option: SocketOption, _value: i64) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

pub(crate) fn local_addr(_socket: u32, _address: &mut AddressBytes) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

pub(crate) fn peer_addr(_socket: u32, _address: &mut AddressBytes) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

pub(crate) fn ready<const BYTES: usize>(_events: &mut [[u8; BYTES]]) -> Result<u32, Errno> {
    Ok(0)
}
