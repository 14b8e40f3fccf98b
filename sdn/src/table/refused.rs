//! Why the table stays as it is.

use std::net::{IpAddr, SocketAddr};

use crate::model::{Front, FrontKey, Generation, Mac, Name};

/// Why an event is refused. Says what is so instead, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The address is another's, or of another generation.
    #[error("{mac}{} is {owner}'s since generation {generation}{}", of(name), instead(held))]
    Fenced {
        /// Which.
        mac: Mac,
        /// What the asker said it held.
        held: Option<Generation>,
        /// What counts.
        generation: Generation,
        /// Whose it is.
        owner: Name,
        /// What it is called.
        name: Option<Name>,
    },
    /// The generation ended when the address was released.
    #[error("{mac} was released: generation {held} is over; claim it anew, without a generation")]
    Released {
        /// Which.
        mac: Mac,
        /// What the asker said it held.
        held: Generation,
    },
    /// An IP address is part of another address.
    #[error("{ip} is {owner}'s: it belongs to {mac}{}; choose another, or release that one", of(name))]
    Taken {
        /// Which.
        ip: IpAddr,
        /// Part of which.
        mac: Mac,
        /// Whose.
        owner: Name,
        /// What it is called.
        name: Option<Name>,
    },
    /// It is nobody's.
    #[error("there is no address {0}; a host claims it when it deploys a guest")]
    NoRoute(Mac),
    /// There is no such node.
    #[error("there is no host {0}; it joins when its daemon is started with --controller")]
    NoHost(Name),
    /// It is not heard of.
    #[error("{0} is lost: nothing was heard of it for some time; choose another host, or start its daemon")]
    Lost(Name),
    /// It runs no guests.
    #[error("{0} is a gateway and owns no addresses; choose a host")]
    Gateway(Name),
    /// It cannot leave.
    #[error("{host} owns {addresses} addresses; move or release them first")]
    Owns {
        /// Who.
        host: Name,
        /// How many.
        addresses: usize,
    },
    /// Two nodes cannot be reached at one address.
    #[error("{vtep} is {host}'s end of the tunnels; give this one another (`--vtep`)")]
    Vtep {
        /// Which.
        vtep: IpAddr,
        /// Whose.
        host: Name,
    },
    /// No machine can have it.
    #[error("{0} is no address of a machine")]
    NoHostAddress(IpAddr),
    /// No other machine can reach it.
    #[error("{0} is no place to take migrations at: give an address that other hosts can reach, and a port")]
    MigrateAddress(SocketAddr),
    /// There is no such front.
    #[error("there is no front {0}")]
    NoFront(FrontKey),
    /// One side IPv4, the other IPv6.
    #[error("front {}: it listens at one family and leads to another; both must be IPv4, or both IPv6", .0.key())]
    Families(Front),
    /// No port, or no address.
    #[error("front {}: address and port must be given on both sides", .0.key())]
    FrontAddress(Front),
    /// A limit.
    #[error("the table has {max} {what}, which is as many as it takes")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many.
        max: usize,
    },
}

fn of(name: &Option<Name>) -> String {
    name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default()
}

fn instead(held: &Option<Generation>) -> String {
    held.map(|held| format!(", not of generation {held}")).unwrap_or_default()
}
