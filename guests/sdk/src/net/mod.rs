//! Sockets of the guest's own stack: UDP, TCP and ICMP echo, over IPv4 and IPv6.
//!
//! All methods take `&self`, so one task may read a socket while another writes it. Every `async` method may be
//! cancelled (dropped) while it waits: what it had not returned has not happened, except for the loops `write_all` and
//! `read_exact`, which may have done a part.

mod icmp;
mod socket;
mod tcp;
mod udp;

pub use icmp::{IcmpBuilder, IcmpSocket};
pub use tcp::{TcpBuilder, TcpListener, TcpListenerBuilder, TcpStream};
pub use udp::{UdpBuilder, UdpSocket};
