//! What makes a copy of a stack another host: a seed and addresses of its own.

use roam_abi::Errno;
use smoltcp::socket::tcp::State;

use crate::{
    Config, ConfigError, Netstack,
    address::Addresses,
    device::{self, Nowhere},
    link::Link,
    netstack::interface,
    random::Random,
    socket::{Bind, Index, Kind, Owner, Scope, Tcp},
};

impl Netstack {
    /// Draws everything random from another seed from now on: sequence numbers of new connections, ports, hashes.
    /// Connections stand. Packets of which only pieces have come or left are lost.
    pub fn reseed(&mut self, seed: u64) {
        self.random = Random::new(seed);
        self.renew_interface();
        self.demux.flows.reseed(self.random.next());
    }

    /// Has other addresses from now on, another MAC, MTU and gateways, and says so on the link with the next poll. On an
    /// error nothing has changed. Sizes and seed stay what they were, whatever the configuration says.
    ///
    /// Nothing more leaves from an old address, for another host may live on with it:
    /// - Connections end without a word to their peers. The guest's own fail with [`Errno::CONNRESET`] once it has read
    ///   what had come; those it has not accepted or has closed are gone.
    /// - Listeners and datagram sockets stay. One that is bound to an address is bound to the new one in its place: IPv4,
    ///   IPv6, or link-local. Where there is none, it hears nothing and cannot send.
    /// - Datagrams in queues, frames in both rings, neighbours, and pieces of packets are forgotten.
    pub fn readdress(&mut self, config: &Config) -> Result<(), ConfigError> {
        config.check()?;
        let addresses = Addresses::new(config);
        for index in 0..self.table.places() {
            match self.table.get(index).map(|socket| &socket.kind) {
                Some(Kind::Tcp(tcp)) if tcp.owner == Owner::Guest => self.end_silently(index),
                Some(Kind::Tcp(_)) => self.release(index),
                Some(Kind::Listener(_)) => self.rebind_listener(index, &addresses),
                Some(Kind::Udp(_) | Kind::Icmp(_)) => self.rebind_datagram(index, &addresses),
                None => {}
            }
        }
        self.time_wait.clear();
        self.demux.forget_fragments();
        self.capabilities = device::capabilities(config);
        self.link = Link::new(addresses);
        self.renew_interface();
        self.rx().clear();
        self.tx().clear();
        self.announce();
        Ok(())
    }

    fn renew_interface(&mut self) {
        let seed = self.random.next();
        self.iface = interface(&self.link.addresses, &self.capabilities, seed, self.now());
        self.fragmenting = false;
    }

    /// Ends a connection of the guest's as a reset from its peer would. What had come can still be read.
    fn end_silently(&mut self, index: Index) {
        let now = self.now();
        let Self { iface, capabilities, table, demux, stats, .. } = self;
        let Some(Kind::Tcp(tcp)) = table.get_mut(index).map(|socket| &mut socket.kind) else { return };
        let ends = tcp.socket().state() != State::Closed;
        tcp.socket_mut().abort();
        if tcp.socket().remote_endpoint().is_some() {
            // smoltcp forgets the peer of an aborted connection by sending it a reset.
            iface.poll_egress(now, &mut Nowhere(capabilities), &mut tcp.single.set);
        }
        debug_assert!(tcp.socket().remote_endpoint().is_none(), "{:?}", tcp.flow);
        demux.remove_flow(tcp.flow, index);
        if ends {
            tcp.error = Some(Errno::CONNRESET);
            stats.tcp_resets += 1;
        }
        let seen = tcp.look();
        let Tcp { wants_write, expires_ns, fin_waits, .. } = &mut **tcp;
        (*wants_write, *expires_ns, *fin_waits) = (false, None, false);
        tcp.seen = seen;
        self.timers.clear(index);
        self.note_event(index);
    }

    /// Its backlog is gone by the time it is polled: those connections are released where the table has them.
    fn rebind_listener(&mut self, index: Index, addresses: &Addresses) {
        let Self { table, demux, link, .. } = self;
        let Some(Kind::Listener(listener)) = table.get_mut(index).map(|socket| &mut socket.kind) else { return };
        listener.half_open.clear();
        listener.ready.clear();
        demux.listeners.remove(listener.bind);
        listener.bind = listener.bind.on(addresses, &link.addresses);
        demux.listeners.insert(listener.bind, index);
    }

    fn rebind_datagram(&mut self, index: Index, addresses: &Addresses) {
        let Self { table, demux, link, .. } = self;
        let Some(socket) = table.get_mut(index) else { return };
        let bound = if matches!(socket.kind, Kind::Udp(_)) { &mut demux.udp } else { &mut demux.echo };
        let (Kind::Udp(datagram) | Kind::Icmp(datagram)) = &mut socket.kind else { return };
        if datagram.is_closed {
            // It was there for what it had to send.
            return self.release(index);
        }
        bound.remove(datagram.bind);
        datagram.bind = datagram.bind.on(addresses, &link.addresses);
        bound.insert(datagram.bind, index);
        let wants_write = datagram.wants_write;
        socket.kind.forget_datagrams();
        if wants_write {
            self.note_event(index);
        }
    }
}

impl Bind {
    /// The same on an interface that has `addresses` where it had `before`.
    fn on(self, addresses: &Addresses, before: &Addresses) -> Self {
        match self.scope {
            Scope::One(old) => Self { scope: Scope::One(addresses.counterpart(old, before)), ..self },
            Scope::Any | Scope::AnyIpv4 => self,
        }
    }
}
