//! Squares numbers: a decimal number in a UDP datagram to port 7000 is answered with its square.
//!
//! ```text
//! $ echo -12 | nc -u -q1 10.90.0.10 7000
//! 144
//! $ echo twelve | nc -u -q1 10.90.0.10 7000
//! error: 't' at byte 1 is not a digit
//! ```
//!
//! White space around the number is ignored; the answer ends in a newline where the question did. A number may have
//! [`DIGITS_MAX`] digits.

mod number;

use std::io::Write;
use std::net::Ipv6Addr;

use roam_sdk::abi::limits::DATAGRAM_BYTES_MAX;
use roam_sdk::net::UdpSocket;

pub use number::{DIGITS_MAX, Number, NumberError, Square};

roam_sdk::main!(main);

/// Where the guest answers.
pub const PORT: u16 = 7000;

async fn main() -> roam_sdk::Result<()> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
    let mut request = vec![0; DATAGRAM_BYTES_MAX];
    let mut reply = Vec::new();
    loop {
        let (len, from) = socket.recv_from(&mut request).await?;
        answer(&request[..len], &mut reply);
        // A peer that cannot be answered must not stop the others' service.
        let _ = socket.send_to(&reply, from).await;
    }
}

/// Writes the answer to `request` into `reply`, whose old content goes.
pub fn answer(request: &[u8], reply: &mut Vec<u8>) {
    reply.clear();
    match Number::parse(request) {
        Ok(number) => number.square().print(reply),
        Err(error) => write!(reply, "error: {error}").expect("a Vec takes all bytes"),
    }
    if request.ends_with(b"\n") {
        reply.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(request: &[u8]) -> String {
        let mut reply = b"old".to_vec();
        answer(request, &mut reply);
        String::from_utf8(reply).expect("answers are text")
    }

    #[test]
    fn numbers_are_squared() {
        for (request, reply) in [
            ("0", "0"),
            ("-0", "0"),
            ("7", "49"),
            ("-12\n", "144\n"),
            (" \t12\r\n", "144\n"),
            ("0012", "144"),
            ("999999999", "999999998000000001"),
            ("1000000000", "1000000000000000000"),
            ("18446744073709551616", "340282366920938463463374607431768211456"),
        ] {
            assert_eq!(answered(request.as_bytes()), reply, "{request:?}");
        }
    }

    #[test]
    fn the_longest_number_is_squared() {
        let nines = "9".repeat(DIGITS_MAX);
        let square = format!("{}8{}1", "9".repeat(DIGITS_MAX - 1), "0".repeat(DIGITS_MAX - 1));
        assert_eq!(answered(nines.as_bytes()), square);
        assert_eq!(answered(format!("{}{nines}", "0".repeat(500)).as_bytes()), square);
    }

    #[test]
    fn junk_is_told_what_is_wrong_with_it() {
        for (request, reply) in [
            (&b""[..], "error: no number"),
            (b"\n", "error: no number\n"),
            (b"-", "error: no digits after '-'"),
            (b"twelve", "error: 't' at byte 1 is not a digit"),
            (b"  12x", "error: 'x' at byte 5 is not a digit"),
            (b"1 2", "error: ' ' at byte 2 is not a digit"),
            (b"--1", "error: '-' at byte 2 is not a digit"),
            (b"1\xff\n", "error: '\\xff' at byte 2 is not a digit\n"),
            (b"3.5", "error: '.' at byte 2 is not a digit"),
        ] {
            assert_eq!(answered(request), reply);
        }
        let long = "1".repeat(DIGITS_MAX + 1);
        assert_eq!(answered(long.as_bytes()), "error: 1001 digits are more than 1000");
    }
}
