//! What stands between two hosts and spoils what passes.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::overlay::Node;

/// What happens to a connection's bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Harm {
    /// A byte is changed.
    Flip,
    /// What is under way changes places.
    Swap,
    /// It ends, both ways.
    Cut,
    /// It ends this way; the other is open, but nobody listens.
    HalfClose,
    /// Nothing passes for so long.
    Stall(Duration),
    /// It is taken, and nothing is ever said.
    Silence,
    /// It is taken, and answered with what is no TLS.
    Noise,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    ToTarget,
    ToSource,
}

/// Harm to the next connection, at that byte of one way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blow {
    pub(crate) way: Way,
    pub(crate) at: u64,
    pub(crate) harm: Harm,
}

/// Passes connections on to a host's migration port. The next one is harmed, if it is told to; all others are not.
pub(crate) struct Proxy {
    pub(crate) at: SocketAddr,
    shared: Arc<Passing>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Passing {
    blow: Mutex<Option<Blow>>,
    /// Bytes of the last connection, by way.
    passed: [AtomicU64; 2],
    over: AtomicBool,
}

impl Proxy {
    /// Before that host, at its address.
    pub(crate) fn before(host: &Node) -> Self {
        let ip = format!("172.30.0.{}", host.number);
        let to: SocketAddr = format!("{ip}:7445").parse().unwrap();
        let listener = host.namespace.run(|| TcpListener::bind((ip.as_str(), 0))).unwrap().unwrap();
        let at = listener.local_addr().unwrap();
        let shared = Arc::new(Passing::default());
        let passing = shared.clone();
        let inside = File::open(host.namespace.path()).unwrap();
        let serve = move || {
            // The connections it makes begin in there.
            setns(&inside, CloneFlags::CLONE_NEWNET).unwrap();
            for stream in listener.incoming() {
                if passing.over.load(Ordering::Relaxed) {
                    return;
                }
                let (stream, passing) = (stream.unwrap(), passing.clone());
                thread::spawn(move || pass(stream, to, &passing));
            }
        };
        Self { at, shared, thread: Some(thread::spawn(serve)) }
    }

    pub(crate) fn strike(&self, blow: Blow) {
        *self.shared.blow.lock().unwrap() = Some(blow);
    }

    /// Whether the blow was dealt out to a connection.
    pub(crate) fn struck(&self) -> bool {
        self.shared.blow.lock().unwrap().is_none()
    }

    /// Bytes of the last connection to the target and to the source.
    pub(crate) fn passed(&self) -> [u64; 2] {
        self.shared.passed.each_ref().map(|bytes| bytes.load(Ordering::Relaxed))
    }

    /// Ends it; `host` is the one it stands before.
    pub(crate) fn end(mut self, host: &Node) {
        self.shared.over.store(true, Ordering::Relaxed);
        let _ = host.namespace.run(|| TcpStream::connect(self.at)).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn pass(stream: TcpStream, to: SocketAddr, passing: &Arc<Passing>) {
    let blow = passing.blow.lock().unwrap().take();
    match blow.map(|blow| blow.harm) {
        Some(Harm::Silence) => return silence(stream),
        Some(Harm::Noise) => {
            let _ = (&stream).write_all(&b"\x16\x03\x03\x00\x05noise220 what is this? ".repeat(100));
            return silence(stream);
        }
        _ => {}
    }
    let Ok(target) = TcpStream::connect(to) else { return };
    let ways = [(Way::ToTarget, &stream, &target), (Way::ToSource, &target, &stream)];
    thread::scope(|scope| {
        for ((way, from, to), passed) in ways.into_iter().zip(&passing.passed) {
            passed.store(0, Ordering::Relaxed);
            let blow = blow.filter(|blow| blow.way == way);
            scope.spawn(move || carry(from, to, blow, passed));
        }
    });
}

/// Reads until the other side is gone.
fn silence(mut stream: TcpStream) {
    let mut bytes = [0; 4096];
    while stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
}

fn carry(mut from: &TcpStream, mut to: &TcpStream, mut blow: Option<Blow>, passed: &AtomicU64) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let count = match from.read(&mut bytes) {
            Ok(count) if count > 0 => count,
            _ => break,
        };
        let piece = &mut bytes[..count];
        let offset = passed.fetch_add(count as u64, Ordering::Relaxed);
        let mut sent = 0;
        if let Some(Blow { at, harm, .. }) = blow.filter(|blow| blow.at < offset + count as u64) {
            blow = None;
            let here = at.saturating_sub(offset) as usize;
            match harm {
                Harm::Flip => piece[here] ^= 0x40,
                Harm::Swap => {
                    let rest = &mut piece[here..];
                    rest.rotate_left(rest.len() / 2);
                }
                Harm::Cut => {
                    let _ = to.write_all(&piece[..here]);
                    let _ = from.shutdown(Shutdown::Both);
                    break;
                }
                Harm::HalfClose => {
                    let _ = to.write_all(&piece[..here]);
                    let _ = to.shutdown(Shutdown::Write);
                    while from.read(&mut bytes).is_ok_and(|count| count > 0) {}
                    return;
                }
                Harm::Stall(lasts) => {
                    let _ = to.write_all(&piece[..here]);
                    sent = here;
                    thread::sleep(lasts);
                }
                Harm::Silence | Harm::Noise => {}
            }
        }
        if to.write_all(&piece[sent..]).is_err() {
            let _ = from.shutdown(Shutdown::Both);
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
