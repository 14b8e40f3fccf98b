//! A key-value store that speaks memcached's text protocol on TCP port 11211.
//!
//! ```text
//! bytes ──► session ──► command ──► store ──► slab     (pure: no socket, no clock)
//!    ▲         │ reply     words      items     order of use
//!    └── this file: sockets, time, options
//! ```
//!
//! It follows memcached's `doc/protocol.txt`, answers and errors to the letter: `get gets gat gats set add replace append
//! prepend cas delete incr decr touch flush_all stats version verbosity quit`, with `noreply` where the protocol has it.
//!
//! Deliberately absent: UDP, the binary and the meta protocol, SASL, slab classes, changing limits while it runs.

pub mod clock;
pub mod command;
pub mod options;
mod reply;
pub mod reserve;
pub mod session;
mod slab;
pub mod stats;
pub mod store;

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::Ipv6Addr;
use std::rc::Rc;
use std::time::Duration;

use roam_sdk::net::{TcpListener, TcpStream};
use roam_sdk::time::{Instant, system_time};
use roam_sdk::{Result, env, info, random};

use clock::Now;
use options::Options;
use reserve::Reserve;
use session::{Next, OUTPUT_BYTES_MAX, Server, Session};
use store::Store;

roam_sdk::main!(main);

/// What all connections read into.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 512;
/// How often a silent client is asked whether it is still there, and how long it may owe an answer: clients keep their
/// connections for days, and those of a client that vanished would add up.
const KEEPALIVE: Duration = Duration::from_secs(120);
const VANISHED_AFTER: Duration = Duration::from_secs(600);
/// What the shared output buffer may keep between two uses.
const OUTPUT_KEPT_BYTES: usize = 2 * OUTPUT_BYTES_MAX;

/// What all connections share. Input and output buffers are shared too: no connection holds them while it waits, so an
/// idle one is small, and a busy guest keeps writing to the same pages.
struct Shared {
    options: Options,
    store: RefCell<Store>,
    reserve: Reserve,
    input: RefCell<Vec<u8>>,
    output: RefCell<Vec<u8>>,
    connections: Cell<usize>,
}

async fn main() -> std::result::Result<(), String> {
    let options = Options::parse(env::args().skip(1)).map_err(|error| error.to_string())?;
    serve(options).await.map_err(|error| error.to_string())
}

async fn serve(options: Options) -> Result<()> {
    let listener = TcpListener::builder().backlog(BACKLOG).bind((Ipv6Addr::UNSPECIFIED, options.port))?;
    let shared = Rc::new(Shared {
        options,
        store: RefCell::new(Store::new(options.limits, [random::u64()?, random::u64()?])),
        reserve: Reserve::new(options.limits.memory_bytes),
        input: RefCell::new(vec![0; SCRATCH_BYTES]),
        output: RefCell::default(),
        connections: Cell::new(0),
    });
    info!("memory {} bytes, items up to {} bytes", options.limits.memory_bytes, options.limits.item_bytes);
    listener.serve(|stream, _| connection(stream, shared.clone())).await
}

async fn connection(stream: TcpStream, shared: Rc<Shared>) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_keepalive(Some(KEEPALIVE))?;
    stream.set_timeout(Some(VANISHED_AFTER))?;
    let Some(_open) = Open::new(&shared) else {
        return stream.write_all(b"ERROR Too many open connections\r\n").await;
    };
    let mut session = Session::default();
    loop {
        let (next, unsent) = match step(&stream, &mut session, &shared) {
            Ok(Some(step)) => step,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                stream.readable().await;
                continue;
            }
            Err(error) => return Err(error),
        };
        stream.write_all(&unsent).await?;
        if next == Next::Close {
            return Ok(());
        }
    }
}

/// Takes what is there through the session and sends what it answers; what the send queue did not take is returned (an
/// empty `Vec` does not allocate), `None` at the end of the stream.
fn step(stream: &TcpStream, session: &mut Session, shared: &Shared) -> Result<Option<(Next, Vec<u8>)>> {
    let (mut input, mut output) = (shared.input.borrow_mut(), shared.output.borrow_mut());
    let mut store = shared.store.borrow_mut();
    output.clear();
    output.shrink_to(OUTPUT_KEPT_BYTES);
    let input = if session.wants_input() {
        let count = stream.try_read(&mut input)?;
        store.stats.bytes_read += count as u64;
        if count == 0 {
            return Ok(None);
        }
        &input[..count]
    } else {
        &[]
    };
    let now = Now { ns: Instant::now().since_start().as_nanos() as u64, unix_s: system_time().as_secs() };
    let next = session.run(input, &mut Server { store: &mut store, reserve: &shared.reserve, now }, &mut output);
    store.stats.bytes_written += output.len() as u64;
    let mut unsent = &output[..];
    while !unsent.is_empty() {
        match stream.try_write(unsent) {
            Ok(count) => unsent = &unsent[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(Some((next, unsent.to_vec())))
}

/// A connection that counts; none where there are too many.
struct Open(Rc<Shared>);

impl Open {
    fn new(shared: &Rc<Shared>) -> Option<Self> {
        let full = shared.connections.get() >= shared.options.connections;
        let stats = &mut shared.store.borrow_mut().stats;
        if full {
            stats.connections_rejected += 1;
            return None;
        }
        stats.connections_total += 1;
        stats.connections += 1;
        shared.connections.set(shared.connections.get() + 1);
        Some(Self(shared.clone()))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.store.borrow_mut().stats.connections -= 1;
    }
}
