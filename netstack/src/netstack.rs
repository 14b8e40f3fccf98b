//! The stack: its parts, and the order in which a poll runs them.

use alloc::{boxed::Box, collections::VecDeque, vec, vec::Vec};

use roam_abi::Event;
use smoltcp::{
    iface::{self, Interface, SocketSet},
    phy::DeviceCapabilities,
    time::{Duration, Instant},
    wire::HardwareAddress,
};

use crate::{
    Config, ConfigError, Ring, Stats,
    address::Addresses,
    device::{self, Nowhere, Output},
    link::Link,
    random::Random,
    socket::{Demux, Index, Pool, Table},
    timers::Timers,
};

/// How long pieces of a packet wait for the rest. Short, because few packets are reassembled at a time and a flood of
/// pieces must not keep others out for long.
const REASSEMBLY_TIMEOUT: Duration = Duration::from_secs(5);

/// The latest time of the guest's clock: 73 years, so that no deadline overflows.
const NOW_NS_MAX: i64 = i64::MAX / 4;

/// What [`Netstack::poll`] leaves to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// [`Netstack::ready`] has events.
    pub ready: bool,
    /// Frames remain to be received or sent: take frames out of the tx ring, then poll again.
    pub again: bool,
}

/// A network interface and its sockets.
///
/// The host writes frames into [`Netstack::rx`], calls [`Netstack::poll`], and takes frames out of [`Netstack::tx`].
/// Calls on sockets never block and never send by themselves: what they cause leaves with the next poll.
pub struct Netstack {
    pub(crate) iface: Box<Interface>,
    pub(crate) capabilities: DeviceCapabilities,
    pub(crate) link: Link,
    pub(crate) table: Table,
    pub(crate) demux: Demux,
    /// No sockets at all: what smoltcp gets with a packet nobody wants, so that it answers as it should.
    pub(crate) nobody: SocketSet<'static>,
    pub(crate) pool: Pool,
    /// Closed connections in TIME-WAIT, oldest first.
    pub(crate) time_wait: VecDeque<Index>,
    pub(crate) events: VecDeque<Index>,
    pub(crate) dirty: VecDeque<Index>,
    pub(crate) timers: Timers,
    pub(crate) random: Random,
    pub(crate) now_ns: i64,
    /// A packet is being sent in fragments. smoltcp can do that for one packet at a time, so nothing else may be sent
    /// before it is through.
    pub(crate) fragmenting: bool,
    pub(crate) stats: Stats,
    pub(crate) rx: Vec<u8>,
    pub(crate) tx: Vec<u8>,
}

impl Netstack {
    /// An interface without sockets.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        config.check()?;
        let (mut rx, mut tx) = (vec![0; config.rx_ring_bytes as usize], vec![0; config.tx_ring_bytes as usize]);
        Ring::format(&mut rx).expect("the configuration's limits are within the ring's");
        Ring::format(&mut tx).expect("the configuration's limits are within the ring's");
        let (addresses, capabilities) = (Addresses::new(config), device::capabilities(config));
        let mut random = Random::new(config.seed);
        let iface = interface(&addresses, &capabilities, random.next(), Instant::ZERO);
        Ok(Self {
            iface,
            capabilities,
            link: Link::new(addresses),
            table: Table::default(),
            demux: Demux::new(random.next()),
            nobody: SocketSet::new(Vec::new()),
            pool: Pool::new(config.buffer_bytes_max as usize),
            time_wait: VecDeque::new(),
            events: VecDeque::new(),
            dirty: VecDeque::new(),
            timers: Timers::default(),
            random,
            now_ns: 0,
            fragmenting: false,
            stats: Stats::default(),
            rx,
            tx,
        })
    }

    /// Receives, lets timers expire, and sends, at the time `now_ns` of the guest's clock (which never runs back: an
    /// earlier time than before counts as that).
    pub fn poll(&mut self, now_ns: i64) -> Polled {
        self.now_ns = now_ns.clamp(self.now_ns, NOW_NS_MAX);
        let (mut rx, mut tx) = (core::mem::take(&mut self.rx), core::mem::take(&mut self.tx));
        let polled = self.poll_rings(&mut rx, &mut tx);
        (self.rx, self.tx) = (rx, tx);
        self.stats.sockets = self.table.len() as u64;
        polled
    }

    fn poll_rings(&mut self, rx: &mut [u8], tx: &mut [u8]) -> Polled {
        let (mut rx, ring) = (attach(rx, &mut self.stats), attach(tx, &mut self.stats));
        let mut out = Output { ring, now_ns: self.now_ns, full: false, fragmenting: self.fragmenting };
        self.stats.rx_ring_dropped = rx.dropped();
        self.expire();
        if self.finish_fragments(&mut out) {
            self.ingress(&mut rx, &mut out);
            self.egress(&mut out);
        }
        let flushed = self.link.flush(self.now_ns, &mut out.ring, &mut self.stats);
        self.fragmenting = out.fragmenting;
        let again = !rx.is_empty() || out.full || !flushed || !self.dirty.is_empty();
        Polled { ready: !self.events.is_empty(), again }
    }

    /// The ring the host writes received frames to.
    pub fn rx(&mut self) -> Ring<'_> {
        attach(&mut self.rx, &mut self.stats)
    }

    /// The ring the host takes frames to send from.
    pub fn tx(&mut self) -> Ring<'_> {
        attach(&mut self.tx, &mut self.stats)
    }

    /// Has the next poll tell everybody on the link which MAC the own addresses are at: when the interface appears on a
    /// link, or on another one. Repeated twice, a second apart.
    pub fn announce(&mut self) {
        self.link.announce();
    }

    /// When the next [`Netstack::poll`] is due though no frame comes and the guest does nothing, on the guest's clock.
    pub fn deadline(&mut self) -> Option<i64> {
        if !self.dirty.is_empty() || self.fragmenting {
            return Some(self.now_ns);
        }
        let timer = self.timers.first().map(|(at_ns, _)| at_ns);
        let deadline = timer.into_iter().chain(self.link.deadline()).min()?;
        Some(deadline.max(self.now_ns))
    }

    /// What may have changed on which sockets since the last call, into `out`; returns how many events that are.
    pub fn ready(&mut self, out: &mut [Event]) -> usize {
        let mut count = 0;
        while let Some(place) = out.get_mut(count)
            && let Some(index) = self.events.pop_front()
        {
            if let Some(flags) = self.take_event(index) {
                *place = Event { socket: self.table.id(index).0, flags };
                count += 1;
            }
        }
        count
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Where the rings are, for a host that reads them from outside.
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn ring_memory(&self) -> (&[u8], &[u8]) {
        (&self.rx, &self.tx)
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::from_micros(self.now_ns / 1000)
    }
}

/// smoltcp's part of the interface: none of its sockets, but random numbers, and pieces of packets.
pub(crate) fn interface(
    addresses: &Addresses,
    capabilities: &DeviceCapabilities,
    seed: u64,
    now: Instant,
) -> Box<Interface> {
    let mut config = iface::Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut iface = Box::new(Interface::new(config, &mut Nowhere(capabilities), now));
    iface.set_reassembly_timeout(REASSEMBLY_TIMEOUT);
    iface.update_ip_addrs(|own| own.extend(addresses.cidrs()));
    iface
}

impl core::fmt::Debug for Netstack {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Netstack").field("now_ns", &self.now_ns).field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// The ring in `bytes`; a corrupt one is emptied, and counted.
fn attach<'a>(bytes: &'a mut [u8], stats: &mut Stats) -> Ring<'a> {
    let (ring, error) = Ring::repair(bytes);
    stats.ring_resets += u64::from(error.is_some());
    ring
}
