//! Answers as they go over the wire.

use crate::store::{Item, Stored};

/// What ends every line and every value.
pub(crate) const LINE_END: &[u8] = b"\r\n";

/// Writes a line.
pub(crate) fn line(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(LINE_END);
}

/// Writes the answer to a storage command.
pub(crate) fn stored(stored: Stored, out: &mut Vec<u8>) {
    let text = match stored {
        Stored::Stored => "STORED",
        Stored::NotStored => "NOT_STORED",
        Stored::Exists => "EXISTS",
        Stored::NotFound => "NOT_FOUND",
        Stored::TooLarge => "SERVER_ERROR object too large for cache",
        Stored::OutOfMemory => "SERVER_ERROR out of memory storing object",
    };
    line(text, out);
}

/// Writes an item.
pub(crate) fn value(key: &[u8], item: &Item, cas: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    out.push(b' ');
    decimal(item.flags.into(), out);
    out.push(b' ');
    decimal(item.data.len() as u64, out);
    if cas {
        out.push(b' ');
        decimal(item.cas, out);
    }
    out.extend_from_slice(LINE_END);
    out.extend_from_slice(&item.data);
    out.extend_from_slice(LINE_END);
}

/// Writes a number: the formatting machinery costs more than all the rest of an answer.
pub(crate) fn decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[start..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_usual() {
        for number in [0, 9, 10, 1_234_567_890, u64::MAX] {
            let mut out = Vec::new();
            decimal(number, &mut out);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }
}
