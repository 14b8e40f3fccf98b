//! `kernel`: the same services on kernel sockets, as one would write them first: blocking, a thread for each connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::{Context, Result};
use roam_abi::limits::DATAGRAM_BYTES_MAX;
use roam_abi::pattern::{self, CHARGEN_PERIOD_BYTES};

use super::{CHARGEN_PORT, DISCARD_PORT, ECHO_PORT};

/// What one read or write moves at most, as in the echo guest.
const CHUNK_BYTES: usize = 64 * 1024;

/// Serves until killed.
pub(super) fn serve() -> Result<()> {
    let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, ECHO_PORT)).context("cannot bind UDP port 7")?;
    listen(ECHO_PORT, echo)?;
    listen(DISCARD_PORT, discard)?;
    listen(CHARGEN_PORT, chargen)?;
    eprintln!("ready");
    udp_echo(&udp)
}

fn udp_echo(socket: &UdpSocket) -> Result<()> {
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let (len, from) = match socket.recv_from(&mut datagram) {
            Ok(received) => received,
            // An earlier reply found nobody.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error).context("receiving datagrams"),
        };
        // A peer that cannot be answered must not stop the others' service.
        let _ = socket.send_to(&datagram[..len], from);
    }
}

fn listen(port: u16, service: fn(TcpStream) -> io::Result<()>) -> Result<()> {
    let listener =
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).with_context(|| format!("cannot bind TCP {port}"))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection that breaks is its client's affair.
            thread::spawn(move || stream.set_nodelay(true).and_then(|()| service(stream)));
        }
    });
    Ok(())
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = vec![0; CHUNK_BYTES];
    loop {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            len => stream.write_all(&bytes[..len])?,
        }
    }
}

fn discard(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = vec![0; CHUNK_BYTES];
    while stream.read(&mut bytes)? > 0 {}
    Ok(())
}

fn chargen(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = vec![0; CHARGEN_PERIOD_BYTES];
    pattern::fill(&mut bytes, 0);
    loop {
        stream.write_all(&bytes)?;
    }
}
