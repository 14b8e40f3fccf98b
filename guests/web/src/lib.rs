//! An HTTP/1.1 server (RFC 9110, RFC 9112) on TCP port 80.
//!
//! | path | methods | answer |
//! | --- | --- | --- |
//! | `/` | GET, HEAD | a page |
//! | `/stream?bytes=N&rate=R` | GET, HEAD | `N` bytes (endless without), `R` a second (as fast as possible without), whose byte at offset n is [`pattern(n)`](roam_sdk::abi::pattern::pattern) |
//! | `/upload` | POST, PUT | `{"bytes":N,"blake3":"…"}` of the body, of any size |
//!
//! Connections are kept and requests may be pipelined. Parsing heads, bodies and queries is pure; `routes` says what is
//! where.
//!
//! Deliberately absent: TLS, HTTP/2, compression, ranges, percent-decoding (no path here needs it).

pub mod body;
mod connection;
pub mod date;
pub mod head;
mod routes;
pub mod status;
pub mod stream;

use std::cell::{Cell, RefCell};
use std::net::Ipv6Addr;
use std::rc::Rc;

use roam_sdk::Result;
use roam_sdk::net::{TcpListener, TcpStream};

use connection::{Connection, Failure, Next, Scratch, message, plain};
use status::Status;

roam_sdk::main!(main);

/// Where the server listens.
pub const PORT: u16 = 80;
/// Connections at a time; a further one is told to come back later.
pub const CONNECTIONS_MAX: usize = 1024;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 512;
/// What all connections read into.
const SCRATCH_BYTES: usize = 64 * 1024;

async fn main() -> Result<()> {
    let listener = TcpListener::builder().backlog(BACKLOG).bind((Ipv6Addr::UNSPECIFIED, PORT))?;
    let scratch: Scratch = Rc::new(RefCell::new(vec![0; SCRATCH_BYTES]));
    let open = Rc::new(Cell::new(0));
    listener.serve(|stream, _| serve(stream, scratch.clone(), Open::new(open.clone()))).await
}

async fn serve(stream: TcpStream, scratch: Scratch, open: Open) -> Result<()> {
    stream.set_nodelay(true)?;
    match converse(Connection::new(stream, scratch), open.0.get() > CONNECTIONS_MAX).await {
        Err(Failure::Network(error)) => Err(error),
        // Whatever else went wrong, the client was told or is gone.
        _ => Ok(()),
    }
}

async fn converse(mut connection: Connection, busy: bool) -> Result<(), Failure> {
    if busy {
        let (status, why) = (Status::ServiceUnavailable, "too many connections");
        connection.respond(plain(status, false), message(status, why).as_bytes(), false).await?;
        return connection.close().await;
    }
    loop {
        match request(&mut connection).await {
            Ok(Next::Request) => {}
            Ok(Next::Close) => return connection.close().await,
            Err(failure) => {
                connection.fail(&failure).await?;
                return match failure {
                    Failure::Network(_) => Err(failure),
                    _ => connection.close().await,
                };
            }
        }
    }
}

/// Waits for a request and answers it.
async fn request(connection: &mut Connection) -> Result<Next, Failure> {
    match connection.head().await? {
        Some(head) => routes::answer(connection, &head).await,
        None => Ok(Next::Close),
    }
}

/// A connection that counts until it is dropped.
struct Open(Rc<Cell<usize>>);

impl Open {
    fn new(count: Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
