//! What the switch says. Any bytes are a message or an error.

use super::flow::FlowStats;
use super::{HEADER_BYTES, VERSION, kind, part};

/// What is not as OpenFlow has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not as OpenFlow 1.3 has it")]
pub(in super::super) struct Malformed {
    pub(in super::super) what: &'static str,
}

/// What is of interest in a message. Others are passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Message {
    /// The other side's first; whether it speaks 1.3.
    Hello { fits: bool },
    /// What we sent under this number was refused (§7.5.4).
    Error { kind: u16, code: u16 },
    /// To be answered with the same content.
    EchoRequest(Vec<u8>),
    /// All before is done.
    BarrierReply,
    /// Some flows, and whether more follow.
    Flows { flows: Vec<FlowStats>, more: bool },
    /// Some ports, and whether more follow.
    Ports { ports: Vec<Port>, more: bool },
    /// Nothing that is asked for.
    Other,
}

/// A port of the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Port {
    pub(in super::super) number: u32,
    pub(in super::super) name: String,
}

/// The length of the message that begins so; `None` while its header is not whole.
pub(in super::super) fn frame_bytes(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if length < HEADER_BYTES {
        return Err(Malformed { what: "the length of a message" });
    }
    Ok(Some(length))
}

/// Takes the first message, with its number and its length; `None` while it is not whole.
pub(in super::super) fn decode(bytes: &[u8]) -> Result<Option<(u32, Message, usize)>, Malformed> {
    let Some(length) = frame_bytes(bytes)? else { return Ok(None) };
    let Some(bytes) = bytes.get(..length) else { return Ok(None) };
    let mut reading = Reading::new("a message", bytes);
    let (version, kind) = (reading.u8()?, reading.u8()?);
    reading.u16()?;
    let number = reading.u32()?;
    // Another version is settled by the hellos; an error of it may still tell why there will be none.
    if version != VERSION && !matches!(kind, kind::HELLO | kind::ERROR) {
        return Err(Malformed { what: "the version of a message" });
    }
    let message = match kind {
        kind::HELLO => Message::Hello { fits: fits(version, &mut reading)? },
        kind::ERROR => Message::Error { kind: reading.u16()?, code: reading.u16()? },
        kind::ECHO_REQUEST => Message::EchoRequest(reading.rest().to_vec()),
        kind::BARRIER_REPLY => Message::BarrierReply,
        kind::MULTIPART_REPLY => decode_multipart(&mut reading)?,
        _ => Message::Other,
    };
    Ok(Some((number, message, length)))
}

/// By the bitmap of versions, else by the header, which names the highest (§6.3.1).
fn fits(version: u8, reading: &mut Reading<'_>) -> Result<bool, Malformed> {
    while !reading.is_empty() {
        let (kind, mut body) = reading.element("an element of a hello")?;
        if kind == 1 {
            return Ok(body.u32()? & 1 << VERSION != 0);
        }
    }
    Ok(version >= VERSION)
}

fn decode_multipart(reading: &mut Reading<'_>) -> Result<Message, Malformed> {
    let (kind, flags) = (reading.u16()?, reading.u16()?);
    reading.take(4)?;
    let more = flags & 1 != 0;
    Ok(match kind {
        part::FLOWS => {
            let mut flows = Vec::new();
            while !reading.is_empty() {
                let length = usize::from(reading.u16()?);
                let body = length.checked_sub(2).ok_or(Malformed { what: "the length of a flow" })?;
                flows.push(FlowStats::decode(reading.take(body)?)?);
            }
            Message::Flows { flows, more }
        }
        part::PORTS => {
            let mut ports = Vec::new();
            while !reading.is_empty() {
                ports.push(decode_port(reading.take(64)?)?);
            }
            Message::Ports { ports, more }
        }
        _ => Message::Other,
    })
}

/// §7.2.1: number, address, name, and what does not matter here.
fn decode_port(bytes: &[u8]) -> Result<Port, Malformed> {
    let mut reading = Reading::new("a port", bytes);
    let number = reading.u32()?;
    reading.take(4 + 6 + 2)?;
    let name = reading.take(16)?.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Port { number, name: String::from_utf8_lossy(name).into_owned() })
}

/// Bytes being read; past their end is an error.
pub(super) struct Reading<'a> {
    what: &'static str,
    left: &'a [u8],
}

impl<'a> Reading<'a> {
    pub(super) fn new(what: &'static str, left: &'a [u8]) -> Self {
        Self { what, left }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (taken, left) = self.left.split_at_checked(bytes).ok_or(Malformed { what: self.what })?;
        self.left = left;
        Ok(taken)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.left)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// A type, a length that counts both, a body; and the padding to eight bytes, if there is any.
    pub(super) fn element(&mut self, what: &'static str) -> Result<(u16, Reading<'a>), Malformed> {
        let (kind, length) = (self.u16()?, usize::from(self.u16()?));
        let body = self.take(length.checked_sub(4).ok_or(Malformed { what })?)?;
        let padding = length.next_multiple_of(8) - length;
        self.take(padding.min(self.left.len()))?;
        Ok((kind, Reading::new(what, body)))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, left) = self.left.split_first_chunk().ok_or(Malformed { what: self.what })?;
        self.left = left;
        Ok(*taken)
    }
}
