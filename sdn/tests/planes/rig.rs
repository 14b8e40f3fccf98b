//! A gateway with the plane under test, two hosts and a client.
//!
//! ```text
//!  client            gateway                         host a, host b
//!   eth0 ── client ── br0 ── vx0 ┄ brphy ─┬─ ua ── under0 ┄ vx0 ── br0 ── tap0 ── guest: 02:…:99, 10.90.1.1, responder
//!                     (the plane)         └─ ub ── under0 …                     the same
//! ```
//!
//! Both hosts have the same address, and their responders say who they are: the gateway's plane alone decides who is
//! reached.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use roam_sdn::Mac;
use roam_sdn::plane::{Ends, Entry, Hop, PlaneError, Planes};

use crate::namespace::{Namespace, able};

/// The address both hosts have.
pub(crate) const GUEST: Mac = Mac([2, 0, 0, 0, 0, 0x99]);
pub(crate) const GUEST_IP: Ipv4Addr = Ipv4Addr::new(10, 90, 1, 1);
pub(crate) const GUEST_IP6: Ipv6Addr = Ipv6Addr::new(0xfd90, 0, 0, 0, 0, 0, 1, 1);
/// Where responders listen.
pub(crate) const PORT: u16 = 7;
/// How long anything may take that happens at once.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);
/// How long silence must last to be believed.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// What carries the tunnels.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Underlay {
    V4,
    V6,
}

impl Underlay {
    /// The gateway's end (254), host a's (1) and host b's (2).
    pub(crate) fn end(self, number: u16) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(172, 30, 0, number as u8).into(),
            Self::V6 => Ipv6Addr::new(0xfd30, 0, 0, 0, 0, 0, 0, number).into(),
        }
    }

    /// The same as `ip address add` takes it.
    pub(crate) fn cidr(self, number: u16) -> String {
        match self {
            Self::V4 => format!("{}/24", self.end(number)),
            Self::V6 => format!("{}/64 nodad", self.end(number)),
        }
    }
}

/// The gateway: what is special about a plane. Its namespace has the devices `ua`, `ub` and `client`, up, when it is
/// made; it joins them.
pub(crate) trait Gateway: Send + Sync {
    /// Opens the plane; called in the gateway's namespace.
    fn planes(&self) -> Result<Planes, PlaneError>;
    /// What somebody may do to the plane by hand: what it is, and commands in the gateway's namespace. The plane knows
    /// the guest's address then, at host a.
    fn disturbances(&self) -> Vec<(&'static str, String)>;
}

/// Makes a gateway in a namespace; `None` where the machine cannot.
pub(crate) type Build = fn(&Namespace, Underlay) -> Option<Box<dyn Gateway>>;

/// All of it.
pub(crate) struct Rig {
    pub(crate) gateway: Box<dyn Gateway>,
    pub(crate) a: Host,
    pub(crate) b: Host,
    pub(crate) inside: Namespace,
    pub(crate) client: Namespace,
    pub(crate) underlay: Underlay,
}

/// A host and its responder.
pub(crate) struct Host {
    /// The responder's thread holds a socket in it, and so it ends first.
    _responder: Responder,
    pub(crate) inside: Namespace,
    pub(crate) end: IpAddr,
}

impl Rig {
    /// `None` where the machine cannot.
    pub(crate) fn new(build: Build, underlay: Underlay) -> Option<Self> {
        if !able(&["ip", "bridge", "nft", "ethtool"]) {
            return None;
        }
        let (inside, client) = (Namespace::new("gw"), Namespace::new("cl"));
        let hosts = [("a", 1), ("b", 2)].map(|(name, number)| Host::new(name, number, &inside, underlay));
        inside.shell(&format!(
            "ip link add client type veth peer name eth0 netns {}\n\
             for port in ua ub client; do ip link set $port addrgenmode none up; done",
            client.name
        ));
        client.shell(
            "ip link set eth0 addrgenmode none address 02:00:00:00:00:01 up\n\
             ip address add 10.90.0.1/16 dev eth0\n\
             ip address add fd90::1/64 dev eth0 nodad\n\
             ethtool -K eth0 tx off tso off gso off",
        );
        let gateway = build(&inside, underlay)?;
        let [a, b] = hosts;
        Some(Self { gateway, a, b, inside, client, underlay })
    }

    /// Runs `work` in the gateway's namespace with its plane, prepared and told of both hosts.
    pub(crate) fn run<R: Send>(&self, work: impl FnOnce(Planes) -> R + Send) -> R {
        self.inside.run(|| {
            let (mut plane, reader) = self.gateway.planes().unwrap();
            plane.prepare().unwrap();
            plane.apply(&[roam_sdn::plane::Order::Ends(self.ends())]).unwrap();
            work((plane, reader))
        })
    }

    /// Broadcast goes to both hosts, what is unknown nowhere.
    pub(crate) fn ends(&self) -> Ends {
        Ends { all: BTreeSet::from([self.a.end, self.b.end]), unknown: BTreeSet::new() }
    }

    /// The guest's entry.
    pub(crate) fn entry(&self, hop: Hop) -> Entry {
        Entry { mac: GUEST, ip: Some(GUEST_IP), ip6: Some(GUEST_IP6), hop, relay: false }
    }

    /// The same at a host.
    pub(crate) fn at(&self, host: &Host) -> Entry {
        self.entry(Hop::Tunnel(host.end))
    }

    /// A client of the guest.
    pub(crate) fn asker(&self, ip: impl Into<IpAddr>) -> Asker {
        Asker::new(&self.client, SocketAddr::new(ip.into(), PORT))
    }

    /// Who answers now, within the limit.
    pub(crate) fn who(&self) -> String {
        self.asker(GUEST_IP).who().expect("nobody answers")
    }
}

impl Host {
    fn new(name: &'static str, number: u16, gateway: &Namespace, underlay: Underlay) -> Self {
        let inside = Namespace::new(&format!("h{name}"));
        gateway
            .shell(&format!("ip link add u{name} mtu 1600 type veth peer name under0 mtu 1600 netns {}", inside.name));
        let (local, remote) = (underlay.end(number), underlay.end(254));
        inside.shell(&format!(
            // Only the guest's device answers for its address, not the bridge.
            "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore\n\
             ip link set under0 addrgenmode none up\n\
             ip address add {} dev under0\n\
             ethtool -K under0 tx off\n\
             ip link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
             ip link set br0 addrgenmode none up\n\
             ip link add tap0 type veth peer name guest address {GUEST}\n\
             ip link set tap0 master br0 addrgenmode none\n\
             for device in tap0 guest; do ip link set $device addrgenmode none up; done\n\
             ethtool -K guest tx off tso off gso off\n\
             ip link add vx0 mtu 1500 type vxlan id 90 local {local} remote {remote} dstport 4789 nolearning\n\
             ip link set vx0 master br0 addrgenmode none\n\
             ip link set vx0 up\n\
             ip address add {GUEST_IP}/16 dev guest\n\
             ip address add {GUEST_IP6}/64 dev guest nodad",
            underlay.cidr(number)
        ));
        let responder = Responder::start(&inside, name);
        Self { _responder: responder, inside, end: local }
    }
}

/// Answers each datagram with the same and its name.
struct Responder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    fn start(inside: &Namespace, name: &'static str) -> Self {
        let socket = inside.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut datagram = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, client)) = socket.recv_from(&mut datagram) {
                    let answer = [&datagram[..length], b" ", name.as_bytes()].concat();
                    // Who has no neighbour entry of the client yet may fail once.
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client's socket, connected.
pub(crate) struct Asker {
    pub(crate) socket: UdpSocket,
}

impl Asker {
    pub(crate) fn new(inside: &Namespace, to: SocketAddr) -> Self {
        let socket = inside.run(|| {
            let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.connect(to).unwrap();
            socket
        });
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { socket }
    }

    /// One question.
    pub(crate) fn send(&self, number: usize) {
        // An answer "unreachable" to the one before is told here.
        let _ = self.socket.send(number.to_string().as_bytes());
    }

    /// The next answer: its number, and who gave it.
    pub(crate) fn receive(&self) -> Option<(usize, String)> {
        let mut datagram = [0; 2048];
        let length = match self.socket.recv(&mut datagram) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return None,
            Err(error) => panic!("{error}"),
        };
        let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
        let (number, who) = text.split_once(' ').unwrap();
        Some((number.parse().unwrap(), who.to_owned()))
    }

    /// Who answers, asked until somebody does.
    pub(crate) fn who(&self) -> Option<String> {
        let begin = Instant::now();
        while begin.elapsed() < LIMIT {
            self.send(0);
            if let Some((_, who)) = self.receive() {
                return Some(who);
            }
        }
        None
    }

    /// Whether nobody answers for a while.
    pub(crate) fn is_silent(&self) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < SILENCE {
            self.send(0);
            if self.receive().is_some() {
                return false;
            }
        }
        true
    }
}

/// Looks until it is so.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
