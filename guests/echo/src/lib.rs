//! Answers with what it gets: the smallest useful guest, and the one benchmarks run.
//!
//! | port | protocol | service |
//! | --- | --- | --- |
//! | 7 | UDP, TCP | echo (RFC 862) |
//! | 9 | UDP, TCP | discard (RFC 863) |
//! | 19 | TCP | chargen (RFC 864), but byte n of a connection is `pattern(n % CHARGEN_PERIOD_BYTES)` of [`roam_sdk::abi::pattern`] |
//!
//! All connections read into one buffer, so an idle connection costs its task and nothing else, and a busy guest keeps
//! writing to the same few pages, which makes it cheap to migrate.
//!
//! Deliberately absent: UDP chargen, which amplifies what a forged sender asks for.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr};
use std::rc::Rc;

use roam_sdk::abi::limits::{DATAGRAM_BYTES_MAX, SOCKET_DATAGRAMS_MAX};
use roam_sdk::abi::pattern::{self, CHARGEN_PERIOD_BYTES};
use roam_sdk::net::{TcpListener, TcpStream, UdpSocket};
use roam_sdk::{Error, Result, task};

roam_sdk::main!(main);

const ECHO_PORT: u16 = 7;
const DISCARD_PORT: u16 = 9;
const CHARGEN_PORT: u16 = 19;

/// Queue of a UDP socket each way: as many full Ethernet frames as it has places for datagrams.
const UDP_BUFFER_BYTES: usize = SOCKET_DATAGRAMS_MAX * 1500;
/// Queue of a TCP connection each way: several of the largest frames, so that one is always under way.
const TCP_BUFFER_BYTES: usize = 256 * 1024;
/// What all TCP connections read into: as much as one of them can have queued.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Connections of a service that may wait to be accepted.
const BACKLOG: u32 = 512;

type Scratch = Rc<RefCell<Vec<u8>>>;

async fn main() -> Result<()> {
    let scratch: Scratch = Rc::new(RefCell::new(vec![0; SCRATCH_BYTES]));
    let chargen: Rc<[u8]> = chargen_table().into();
    let [echo, discard, generate] = [listen(ECHO_PORT)?, listen(DISCARD_PORT)?, listen(CHARGEN_PORT)?];

    task::spawn(log_end(udp_echo(udp(ECHO_PORT)?)));
    task::spawn(log_end(udp_discard(udp(DISCARD_PORT)?)));
    let shared = scratch.clone();
    task::spawn(async move { discard.serve(|stream, _| tcp_discard(stream, shared.clone())).await });
    task::spawn(async move { generate.serve(|stream, _| tcp_chargen(stream, chargen.clone())).await });
    echo.serve(|stream, _| tcp_echo(stream, scratch.clone())).await
}

async fn udp_echo(socket: UdpSocket) -> Result<()> {
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let (len, from) = socket.recv_from(&mut datagram).await?;
        // A peer that cannot be answered must not stop the others' service.
        let _ = socket.send_to(&datagram[..len], from).await;
    }
}

async fn udp_discard(socket: UdpSocket) -> Result<()> {
    loop {
        socket.recv_from(&mut []).await?;
    }
}

async fn tcp_echo(stream: TcpStream, scratch: Scratch) -> Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let unsent = match echo_once(&stream, &mut scratch.borrow_mut()) {
            Ok(None) => return Ok(()),
            Ok(Some(unsent)) => Some(unsent),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => return Err(error),
        };
        match unsent {
            Some(unsent) => stream.write_all(&unsent).await?,
            None => stream.readable().await,
        }
    }
}

/// Moves what is there from receive to send queue; what the send queue did not take is returned (an empty `Vec` does
/// not allocate), `None` at the end of the stream.
fn echo_once(stream: &TcpStream, scratch: &mut [u8]) -> Result<Option<Vec<u8>>> {
    let count = stream.try_read(scratch)?;
    let mut bytes = &scratch[..count];
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok((count > 0).then(|| bytes.to_vec()))
}

async fn tcp_discard(stream: TcpStream, scratch: Scratch) -> Result<()> {
    loop {
        let read = stream.try_read(&mut scratch.borrow_mut());
        match read {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.readable().await,
            Err(error) => return Err(error),
        }
    }
}

async fn tcp_chargen(stream: TcpStream, table: Rc<[u8]>) -> Result<()> {
    stream.set_nodelay(true)?;
    loop {
        stream.write_all(&table).await?;
    }
}

fn chargen_table() -> Vec<u8> {
    let mut table = vec![0; CHARGEN_PERIOD_BYTES];
    pattern::fill(&mut table, 0);
    table
}

fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::builder().backlog(BACKLOG).buffers(TCP_BUFFER_BYTES, TCP_BUFFER_BYTES).bind(any(port))
}

fn udp(port: u16) -> Result<UdpSocket> {
    UdpSocket::builder().buffers(UDP_BUFFER_BYTES, UDP_BUFFER_BYTES).bind(any(port))
}

/// Any address of either family.
fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

/// Runs a service that should never end.
async fn log_end(service: impl Future<Output = Result<(), Error>>) {
    if let Err(error) = service.await {
        roam_sdk::error!("service ended: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chargen_is_the_documented_stream() {
        let table = chargen_table();
        for n in [0, 1, 70_000, 10 * CHARGEN_PERIOD_BYTES + 3] {
            let at = n % CHARGEN_PERIOD_BYTES;
            assert_eq!(table[at], pattern::pattern(at as u64));
        }
    }
}
