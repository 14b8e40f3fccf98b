//! Where it happens.
//!
//! ```text
//!  client            gateway                          host 0, host 1
//!   eth0 ── client ── [plane] ┄ tunnel ┄ brphy ─┬─ u0 ── under0 ┄ vx0 ── br0 ── tap0 ── guest: responder
//!                                               └─ u1 ── under0 …               the same address
//! ```
//!
//! Both hosts have the address, and say who they are: only the gateway's plane decides who is reached. Neighbours are
//! given beforehand, so that nothing waits for ARP but the tunnels' ends, which have met before it begins.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use roam_runtime::lab::{Lab, Namespace, require};
use roam_sdn::Mac;
use roam_sdn::model::Address;

use super::client::{self, HOST, HOST_TIME};
use super::gateway::{Gateway, Way};
use crate::network::{Scratch, socket_drops};

/// The address in question.
const GUEST: Mac = Mac([2, 0, 0, 0, 0, 0x99]);
const GUEST_IP: Ipv4Addr = Ipv4Addr::new(10, 90, 1, 1);
/// What the client speaks to.
pub(super) const TARGET: SocketAddr = SocketAddr::V4(SocketAddrV4::new(GUEST_IP, 7));
const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 1);
/// The gateway's end of the tunnels.
pub(super) const GATEWAY_END: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 254);
/// How long configuring may take, and how long an answer.
const LIMIT: Duration = Duration::from_secs(20);

/// All of it. Goes with the value; the responders first, for their sockets hold the hosts.
pub(super) struct Rig {
    responders: [Responder; 2],
    hosts: [Namespace; 2],
    pub(super) client: Namespace,
    pub(super) gateway: Gateway,
    pub(super) scratch: Scratch,
}

impl Rig {
    pub(super) fn new(way: Way) -> Result<Self> {
        let lab = Lab::new().context("cannot measure here")?;
        require("ethtool", "ethtool").context("cannot measure here")?;
        way.check().context("cannot measure here")?;
        let (inside, client) = (lab.namespace("gateway")?, lab.namespace("client")?);
        let hosts = [lab.namespace("host-0")?, lab.namespace("host-1")?];
        for (number, host) in hosts.iter().enumerate() {
            self::host(number, host, &inside)?;
        }
        batch(
            &inside,
            &format!(
                "link add client type veth peer name eth0 netns {}\nlink set client addrgenmode none\n\
                 link set u0 addrgenmode none\nlink set u1 addrgenmode none\n\
                 link set client up\nlink set u0 up\nlink set u1 up\n",
                client.path()
            ),
        )?;
        batch(
            &client,
            &format!(
                "link set eth0 addrgenmode none address {CLIENT_MAC}\nlink set eth0 up\n\
                 address add {CLIENT_IP}/16 dev eth0\n\
                 neighbour replace {GUEST_IP} lladdr {GUEST} dev eth0 nud permanent\n"
            ),
        )?;
        without_offloads(&client, "eth0")?;
        let scratch = Scratch::new()?;
        let gateway = Gateway::new(way, inside, scratch.path())?;
        let [first, second] = &hosts;
        let responders = [Responder::start(first, 0)?, Responder::start(second, 1)?];
        Ok(Self { responders, hosts, client, gateway, scratch })
    }

    /// The address, as hosts claim it.
    pub(super) fn address(&self) -> Address {
        Address { mac: GUEST, ip: Some(GUEST_IP), ip6: None, name: None }
    }

    /// A host's end of the tunnels.
    pub(super) fn end(&self, host: u8) -> IpAddr {
        end(host.into()).into()
    }

    /// Asks until that host answers.
    pub(super) fn wait_for(&self, host: u8) -> Result<()> {
        let socket = self.client.run(client::open)??;
        let (deadline, mut reply) = (Instant::now() + LIMIT, [0; 64]);
        while Instant::now() < deadline {
            // Refusals are of the network that is not there yet.
            let _ = socket.send(&[0; 64]);
            thread::sleep(Duration::from_millis(5));
            while let Ok(length) = socket.recv(&mut reply) {
                if length > HOST && reply[HOST] == host {
                    return Ok(());
                }
            }
        }
        anyhow::bail!("host {host} does not answer within {LIMIT:?}")
    }

    /// Datagrams that came when a socket was full, at the client and the hosts so far: the benchmark's own losses.
    pub(super) fn dropped(&self) -> Result<u64> {
        self.hosts.iter().chain([&self.client]).map(socket_drops).sum()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.responders.iter_mut().for_each(Responder::end);
    }
}

fn end(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(172, 30, 0, 1 + host as u8)
}

fn host(number: usize, host: &Namespace, gateway: &Namespace) -> Result<()> {
    let end = end(number);
    gateway.ip(&format!("link add u{number} mtu 1600 type veth peer name under0 mtu 1600 netns {}", host.path()))?;
    batch(
        host,
        &format!(
            "link set under0 addrgenmode none\nlink set under0 up\naddress add {end}/24 dev under0\n\
             link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
             link set br0 addrgenmode none\nlink set br0 up\n\
             link add tap0 type veth peer name guest address {GUEST}\n\
             link set tap0 master br0 addrgenmode none\nlink set guest addrgenmode none\n\
             link set tap0 up\nlink set guest up\n\
             link add vx0 mtu 1500 type vxlan id 90 local {end} remote {GATEWAY_END} dstport 4789 nolearning\n\
             link set vx0 master br0 addrgenmode none\nlink set vx0 up\n\
             address add {GUEST_IP}/16 dev guest\n\
             neighbour replace {CLIENT_IP} lladdr {CLIENT_MAC} dev guest nud permanent\n"
        ),
    )?;
    without_offloads(host, "guest")?;
    without_offloads(host, "under0")
}

/// Several `ip` commands, a line each, which must succeed.
pub(super) fn batch(namespace: &Namespace, commands: &str) -> Result<()> {
    namespace.call("ip -batch -", commands.as_bytes(), LIMIT)?.success()?;
    Ok(())
}

/// Checksums are in the frames: a switch in user space cannot have them filled in later.
fn without_offloads(namespace: &Namespace, device: &str) -> Result<()> {
    namespace.call(&format!("ethtool -K {device} tx off tso off gso off"), b"", LIMIT)?.success()?;
    Ok(())
}

/// Answers each datagram with the same, its number and its time.
struct Responder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    fn start(inside: &Namespace, number: u8) -> Result<Self> {
        let socket = inside.run(|| UdpSocket::bind((GUEST_IP, TARGET.port())))?.context("no socket at a host")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        client::grow(&socket);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name(format!("host-{number}")).spawn(move || {
            let (epoch, mut datagram) = (Instant::now(), [0; 2048]);
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut datagram) else { continue };
                if length >= HOST_TIME.end {
                    datagram[HOST] = number;
                    datagram[HOST_TIME].copy_from_slice(&(epoch.elapsed().as_nanos() as u64).to_le_bytes());
                    // One that does not leave is a loss, and is counted.
                    let _ = socket.send_to(&datagram[..length], client);
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that has panicked has said so.
            let _ = thread.join();
        }
    }
}
