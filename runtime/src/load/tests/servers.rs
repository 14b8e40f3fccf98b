//! Plain servers for tests: one thread each, for as long as the test process lives.
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use roam_abi::pattern;

/// What a UDP server does with a datagram.
pub(crate) enum Mischief {
    None,
    Drop,
    Twice,
    FlipLastByte,
    /// Answers after the datagram that comes next.
    AfterNext,
}

/// An echo server that treats the n-th datagram as told.
pub(crate) fn udp_echo(address: &str, mischief: impl Fn(u64) -> Mischief + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind(address).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        let mut held: Option<Vec<u8>> = None;
        for n in 0.. {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            let datagram = &mut buffer[..length];
            match mischief(n) {
                Mischief::Drop => continue,
                Mischief::AfterNext => {
                    held = Some(datagram.to_vec());
                    continue;
                }
                Mischief::Twice => drop(socket.send_to(datagram, from)),
                Mischief::FlipLastByte => datagram[length - 1] ^= 0x40,
                Mischief::None => {}
            }
            let _ = socket.send_to(datagram, from);
            if let Some(datagram) = held.take() {
                let _ = socket.send_to(&datagram, from);
            }
        }
    });
    address
}

/// Squares numbers of up to 19 digits.
pub(crate) fn udp_square() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            let number: u128 = std::str::from_utf8(&buffer[..length]).unwrap().parse().unwrap();
            let _ = socket.send_to((number * number).to_string().as_bytes(), from);
        }
    });
    address
}

/// A TCP server with a thread for each connection.
pub(crate) struct StreamServer {
    pub(crate) address: SocketAddr,
}

/// What a connection of a test server writes to: resets the connection when it has had enough.
pub(crate) struct Out {
    stream: TcpStream,
    left: Option<usize>,
}

impl Out {
    /// Whether the connection still is.
    fn send(&mut self, bytes: &[u8]) -> bool {
        let length = self.left.map_or(bytes.len(), |left| left.min(bytes.len()));
        if self.stream.write_all(&bytes[..length]).is_err() {
            return false;
        }
        if let Some(left) = &mut self.left {
            *left -= length;
            if *left == 0 {
                // What was sent shall arrive; then closing with linger 0 sends a reset.
                thread::sleep(Duration::from_millis(2));
                let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                nix::sys::socket::setsockopt(&self.stream.as_fd(), nix::sys::socket::sockopt::Linger, &linger).unwrap();
                return false;
            }
        }
        true
    }
}

impl StreamServer {
    /// Serves until each connection ends by itself or, with `reset_after`, has been sent that many bytes.
    pub(crate) fn new(serve: impl Fn(TcpStream, Out) + Send + Sync + 'static, reset_after: Option<usize>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                let out = Out { stream: stream.try_clone().unwrap(), left: reset_after };
                let serve = serve.clone();
                thread::spawn(move || serve(stream, out));
            }
        });
        Self { address }
    }
}

/// Sends back what comes.
pub(crate) fn echo(mut stream: TcpStream, mut out: Out) {
    let mut buffer = vec![0; 65536];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if !out.send(&buffer[..length]) {
            return;
        }
    }
}

/// Sends back what comes, but for one byte.
pub(crate) fn echo_with_a_flip_at(offset: usize) -> impl Fn(TcpStream, Out) {
    move |mut stream, mut out| {
        let mut buffer = vec![0; 65536];
        let mut done = 0;
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if (done..done + length).contains(&offset) {
                buffer[offset - done] ^= 1;
            }
            done += length;
            out.send(&buffer[..length]);
        }
    }
}

type Items = Arc<Mutex<HashMap<String, (String, Vec<u8>)>>>;

/// `get` and `set` of memcached.
pub(crate) fn memcached() -> impl Fn(TcpStream, Out) {
    let items = Items::default();
    move |stream, out| serve_items(&items, stream, out, usize::MAX)
}

/// One that forgets everything each 50 requests.
pub(crate) fn forgetful_memcached() -> impl Fn(TcpStream, Out) {
    let items = Items::default();
    move |stream, out| serve_items(&items, stream, out, 50)
}

fn serve_items(items: &Items, stream: TcpStream, mut out: Out, forget_after: usize) {
    let mut reader = BufReader::new(stream);
    for n in 1.. {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut reply = Vec::new();
        let mut items = items.lock().unwrap();
        if n % forget_after == 0 {
            items.clear();
        }
        if words[0] == "set" {
            let mut value = vec![0; words[4].parse::<usize>().unwrap() + 2];
            if reader.read_exact(&mut value).is_err() {
                return;
            }
            value.truncate(value.len() - 2);
            items.insert(words[1].to_owned(), (words[2].to_owned(), value));
            reply.extend_from_slice(b"STORED\r\n");
        } else {
            if let Some((flags, value)) = items.get(words[1]) {
                write!(reply, "VALUE {} {flags} {}\r\n", words[1], value.len()).unwrap();
                reply.extend_from_slice(value);
                reply.extend_from_slice(b"\r\n");
            }
            reply.extend_from_slice(b"END\r\n");
        }
        drop(items);
        if !out.send(&reply) {
            return;
        }
    }
}

/// `GET /stream?bytes=N&rate=R`, chunked where endless, with one wrong byte if told so.
pub(crate) fn http_stream(wrong_at: Option<u64>) -> impl Fn(TcpStream, Out) {
    move |stream, mut out| {
        let mut line = String::new();
        let mut reader = BufReader::new(stream);
        while !line.ends_with("\r\n\r\n") {
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
        }
        let number = |name: &str| {
            let rest = line.split(name).nth(1)?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
        };
        let (total, rate) = (number("bytes="), number("rate="));
        let head = match total {
            Some(total) => format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n"),
            None => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        };
        if !out.send(head.as_bytes()) {
            return;
        }
        let (start, mut offset) = (Instant::now(), 0);
        while total.is_none_or(|total| offset < total) {
            let due = rate.map_or(u64::MAX, |rate| (start.elapsed().as_secs_f64() * rate as f64) as u64);
            let length = due.saturating_sub(offset).min(16384).min(total.unwrap_or(u64::MAX) - offset);
            if length == 0 {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            let mut piece = vec![0; length as usize];
            pattern::fill(&mut piece, offset);
            if let Some(wrong) = wrong_at.filter(|wrong| (offset..offset + length).contains(wrong)) {
                piece[(wrong - offset) as usize] ^= 1;
            }
            if total.is_none() {
                let mut framed = format!("{length:x}\r\n").into_bytes();
                framed.extend_from_slice(&piece);
                framed.extend_from_slice(b"\r\n");
                piece = framed;
            }
            if !out.send(&piece) {
                return;
            }
            offset += length;
        }
        // Keeps the connection until the client is done.
        let _ = reader.read(&mut [0]);
    }
}

/// Answers 404 whatever is asked.
pub(crate) fn http_error(mut stream: TcpStream, mut out: Out) {
    let _ = stream.read(&mut [0; 4096]);
    out.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
}
