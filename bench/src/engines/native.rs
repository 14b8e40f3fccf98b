//! `native`: the guest's netstack and edge without WebAssembly, with the echo guest's services written plainly.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use roam_abi::limits::{DATAGRAM_BYTES_MAX, SOCKET_DATAGRAMS_MAX};
use roam_abi::pattern::{self, CHARGEN_PERIOD_BYTES};
use roam_abi::{Errno, Event, SocketOption};
use roam_netstack::{Cidr, Config, Netstack, Ring, SocketId};
use roam_runtime::guest::{LogLine, Stopped};
use roam_runtime::net::{Edge, EdgeOptions, Machine, Polled, Tap, TapOptions, Watchdog};

use super::{CHARGEN_PORT, DISCARD_PORT, ECHO_PORT};

/// Where it is.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[arg(long)]
    tap: String,
    #[arg(long)]
    ipv4: Ipv4Addr,
    #[arg(long)]
    ipv6: Ipv6Addr,
    #[arg(long)]
    mac: String,
    #[arg(long)]
    mtu: u16,
    #[arg(long)]
    busy_poll_us: u64,
}

/// As in the echo guest.
const UDP_BUFFER_BYTES: usize = SOCKET_DATAGRAMS_MAX * 1500;
const TCP_BUFFER_BYTES: usize = 256 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;
const BACKLOG: usize = 512;
/// How often one poll lets the services run before it returns to frame I/O, as for a guest.
const ROUNDS_MAX: usize = 4;
const POLL_BUDGET: Duration = Duration::from_secs(1);

/// Serves until killed.
pub(super) fn serve(arguments: &Arguments) -> Result<()> {
    let tap = Tap::open(&TapOptions { name: arguments.tap.clone(), mtu: arguments.mtu })?;
    let mut services = Services::new(&network(arguments)?).context("the services cannot start")?;
    // The guest's edge pays for a watchdog, so this one does.
    let watchdog = Watchdog::new(POLL_BUDGET, |overrun| {
        eprintln!("a poll took more than {:?}", overrun.budget);
        std::process::exit(1);
    })?;
    let (never, _held) = std::io::pipe()?;
    let busy_poll = Duration::from_micros(arguments.busy_poll_us);
    eprintln!("ready");
    Edge::new(tap, EdgeOptions { busy_poll }).run(&mut services, &watchdog, never.as_fd().into(), |_| {})?;
    Ok(())
}

/// What `roam run` gives its guest.
fn network(arguments: &Arguments) -> Result<Config> {
    let mut mac = [0; 6];
    for (byte, text) in mac.iter_mut().zip(arguments.mac.split(':')) {
        *byte = u8::from_str_radix(text, 16).context("--mac takes six bytes")?;
    }
    let mut config = Config::new(mac);
    config.ipv4 = Some(Cidr { address: arguments.ipv4, prefix: 16 });
    config.ipv6 = Some(Cidr { address: arguments.ipv6, prefix: 64 });
    config.mtu = arguments.mtu;
    // As `roam run` has it: the edge lets the kernel cut large TCP frames.
    config.segmentation = true;
    config.check()?;
    Ok(config)
}

/// The netstack and what is done with its sockets.
struct Services {
    stack: Netstack,
    sockets: HashMap<u32, Socket>,
    chunk: Vec<u8>,
    chargen: Vec<u8>,
}

enum Socket {
    /// With a datagram that found the send queue full.
    UdpEcho(Option<(Vec<u8>, SocketAddr)>),
    Listener(Service),
    /// With what the send queue did not take.
    Echo(Vec<u8>),
    Discard,
    /// With the place in the table where it goes on.
    Chargen(usize),
}

#[derive(Clone, Copy)]
enum Service {
    Echo,
    Discard,
    Chargen,
}

impl Services {
    fn new(config: &Config) -> Result<Self> {
        let mut stack = Netstack::new(config)?;
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let udp = stack.udp_open(any(ECHO_PORT), UDP_BUFFER_BYTES, UDP_BUFFER_BYTES)?;
        let mut sockets = HashMap::from([(udp.0, Socket::UdpEcho(None))]);
        for (port, service) in
            [(ECHO_PORT, Service::Echo), (DISCARD_PORT, Service::Discard), (CHARGEN_PORT, Service::Chargen)]
        {
            let listener = stack.tcp_listen(any(port), BACKLOG, TCP_BUFFER_BYTES, TCP_BUFFER_BYTES)?;
            sockets.insert(listener.0, Socket::Listener(service));
        }
        let mut chargen = vec![0; CHARGEN_PERIOD_BYTES];
        pattern::fill(&mut chargen, 0);
        Ok(Self { stack, sockets, chunk: vec![0; CHUNK_BYTES.max(DATAGRAM_BYTES_MAX)], chargen })
    }

    /// Does what the sockets that have news allow.
    fn serve(&mut self) {
        let mut events = [Event { socket: 0, flags: 0 }; 64];
        loop {
            let count = self.stack.ready(&mut events);
            for event in &events[..count] {
                self.serve_socket(SocketId(event.socket));
            }
            if count < events.len() {
                return;
            }
        }
    }

    fn serve_socket(&mut self, id: SocketId) {
        let Self { stack, sockets, chunk, chargen } = self;
        let Some(socket) = sockets.get_mut(&id.0) else { return };
        let over = match socket {
            Socket::UdpEcho(pending) => udp_echo(stack, id, pending, chunk),
            Socket::Listener(service) => {
                let service = *service;
                return self.accept(id, service);
            }
            Socket::Echo(unsent) => echo(stack, id, unsent, chunk),
            Socket::Discard => discard(stack, id),
            Socket::Chargen(next) => generate(stack, id, next, chargen),
        };
        if over != Err(Errno::AGAIN) {
            self.sockets.remove(&id.0);
            // It may be gone already.
            let _ = self.stack.close(id);
        }
    }

    fn accept(&mut self, id: SocketId, service: Service) {
        while let Ok((accepted, _)) = self.stack.accept(id) {
            let socket = match service {
                Service::Echo => Socket::Echo(Vec::new()),
                Service::Discard => Socket::Discard,
                Service::Chargen => Socket::Chargen(0),
            };
            // A connection that is over already says so when it is served.
            let _ = self.stack.set_option(accepted, SocketOption::NoDelay, 1);
            self.sockets.insert(accepted.0, socket);
            self.serve_socket(accepted);
        }
    }
}

// These work until the socket would block (`AGAIN`), fails, or is done (`Ok`).

fn udp_echo(
    stack: &mut Netstack,
    id: SocketId,
    pending: &mut Option<(Vec<u8>, SocketAddr)>,
    chunk: &mut [u8],
) -> Result<(), Errno> {
    if let Some((datagram, to)) = pending {
        stack.send_to(id, *to, datagram.len())?.copy_from_slice(datagram);
        *pending = None;
    }
    loop {
        let (datagram, from) = stack.recv_from(id)?;
        let len = datagram.len();
        chunk[..len].copy_from_slice(datagram);
        match stack.send_to(id, from, len) {
            Ok(slot) => slot.copy_from_slice(&chunk[..len]),
            Err(Errno::AGAIN) => {
                *pending = Some((chunk[..len].to_vec(), from));
                return Err(Errno::AGAIN);
            }
            // A peer that cannot be answered must not stop the others' service.
            Err(_) => {}
        }
    }
}

fn echo(stack: &mut Netstack, id: SocketId, unsent: &mut Vec<u8>, chunk: &mut [u8]) -> Result<(), Errno> {
    loop {
        while !unsent.is_empty() {
            let count = send(stack, id, unsent)?;
            unsent.drain(..count);
        }
        let bytes = stack.recv(id, chunk.len())?;
        let len = bytes.len();
        if len == 0 {
            return Ok(());
        }
        chunk[..len].copy_from_slice(bytes);
        let mut sent = 0;
        while sent < len {
            match send(stack, id, &chunk[sent..len]) {
                Ok(count) => sent += count,
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error),
            }
        }
        unsent.extend_from_slice(&chunk[sent..len]);
    }
}

fn discard(stack: &mut Netstack, id: SocketId) -> Result<(), Errno> {
    while !stack.recv(id, CHUNK_BYTES)?.is_empty() {}
    Ok(())
}

fn generate(stack: &mut Netstack, id: SocketId, next: &mut usize, table: &[u8]) -> Result<(), Errno> {
    loop {
        *next = (*next + send(stack, id, &table[*next..])?) % table.len();
    }
}

fn send(stack: &mut Netstack, id: SocketId, bytes: &[u8]) -> Result<usize, Errno> {
    let slot = stack.send(id, bytes.len())?;
    let count = slot.len();
    slot.copy_from_slice(&bytes[..count]);
    Ok(count)
}

impl Machine for Services {
    fn rx(&mut self) -> Ring<'_> {
        self.stack.rx()
    }

    fn tx(&mut self) -> Ring<'_> {
        self.stack.tx()
    }

    fn poll(&mut self, now_ns: i64) -> Result<Polled, Stopped> {
        let mut polled = self.stack.poll(now_ns);
        for _ in 0..ROUNDS_MAX {
            if !polled.ready {
                return Ok(Polled { again: polled.again });
            }
            self.serve();
            let frames_remain = polled.again;
            polled = self.stack.poll(now_ns);
            polled.again |= frames_remain;
        }
        Ok(Polled { again: true })
    }

    fn deadline_ns(&mut self) -> Result<Option<i64>, Stopped> {
        Ok(self.stack.deadline())
    }

    fn take_log(&mut self) -> Vec<LogLine> {
        Vec::new()
    }
}
