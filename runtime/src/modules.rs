//! The modules built with this crate: the netstack every guest runs on, and the guests that come with roam.

/// The TCP/IP stack, `netstack/` built to wasm.
pub const NETSTACK: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wasm/netstack.wasm"));
/// Echo, discard and character generator over UDP and TCP.
pub const ECHO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wasm/echo.wasm"));
/// UDP: a decimal number → its square.
pub const SQUARE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wasm/square.wasm"));
/// A memcached.
pub const KV: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wasm/kv.wasm"));
/// An HTTP/1.1 server.
pub const WEB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wasm/web.wasm"));
