//! Sockets: what the guest's handles stand for.
//!
//! Each one is alone in a smoltcp socket set, and [`Demux`] finds the one a packet is for, so that a packet, a send or
//! a timer costs the same with one socket as with thousands. (smoltcp walks all sockets of a set for each of them.)

mod demux;
mod flows;
mod pool;
mod state;
mod table;

pub use self::table::SocketId;
pub(crate) use self::{
    demux::{Bind, Demux, FragmentKey, Scope},
    flows::{Flow, Flows},
    pool::Pool,
    state::{Datagram, Kind, Listener, Options, Owner, Seen, Single, Socket, Tcp},
    table::{Index, Table},
};
