//! OpenFlow 1.3 on the wire, as far as a plane needs it. Pure; references are to the OpenFlow Switch Specification 1.3.5.
//!
//! | message | who sends it | what for |
//! | --- | --- | --- |
//! | hello, echo | both | version; whether the other lives |
//! | error | the switch | why it refuses a message of ours, by its number (xid) |
//! | set-async | we | that it sends nothing unasked |
//! | flow-mod | we | add or delete one flow; no answer unless refused |
//! | barrier | we | answered when all before it is done |
//! | multipart: flows, ports | we | answered by any number of messages, the last without "more" |

mod flow;
mod read;

pub(super) use flow::{Change, Flow, FlowStats, Match, NORMAL, PORT_IN, Step};
pub(super) use read::{Message, Port, decode};

#[cfg(test)]
mod tests;

/// The version on the wire that is 1.3.
const VERSION: u8 = 4;
/// Of each message: version, type, length, number.
pub(super) const HEADER_BYTES: usize = 8;

/// The types of messages (§A.1).
mod kind {
    pub(super) const HELLO: u8 = 0;
    pub(super) const ERROR: u8 = 1;
    pub(super) const ECHO_REQUEST: u8 = 2;
    pub(super) const ECHO_REPLY: u8 = 3;
    pub(super) const FLOW_MOD: u8 = 14;
    pub(super) const MULTIPART_REQUEST: u8 = 18;
    pub(super) const MULTIPART_REPLY: u8 = 19;
    pub(super) const BARRIER_REQUEST: u8 = 20;
    pub(super) const BARRIER_REPLY: u8 = 21;
    pub(super) const SET_ASYNC: u8 = 28;
}

/// The kinds of multipart messages (§7.3.5).
mod part {
    pub(super) const FLOWS: u16 = 1;
    pub(super) const PORTS: u16 = 13;
}

/// Any port, group or buffer.
const ANY: u32 = 0xffff_ffff;
const ANY_TABLE: u8 = 0xff;

/// A message longer than its header's length can say. Only a flow with thousands of steps is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {bytes} bytes is longer than OpenFlow allows (65535)")]
pub(super) struct TooLong {
    pub(super) bytes: usize,
}

/// Appends a message to what is to be sent.
fn message(
    out: &mut Vec<u8>,
    kind: u8,
    number: u32,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), TooLong>,
) -> Result<(), TooLong> {
    let start = out.len();
    out.extend([VERSION, kind, 0, 0]);
    out.extend(number.to_be_bytes());
    let written = body(out).and_then(|()| length(out.len() - start));
    match written {
        Ok(bytes) => {
            out[start + 2..start + 4].copy_from_slice(&bytes.to_be_bytes());
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

fn length(bytes: usize) -> Result<u16, TooLong> {
    u16::try_from(bytes).or(Err(TooLong { bytes }))
}

/// A message whose length is known to fit.
fn short(out: &mut Vec<u8>, kind: u8, number: u32, body: &[u8]) {
    let written = message(out, kind, number, |out| {
        out.extend(body);
        Ok(())
    });
    debug_assert_eq!(written, Ok(()), "a message of {} bytes fits", body.len());
}

/// The first message of either side: 1.3 and nothing else (§7.5.1).
pub(super) fn hello(out: &mut Vec<u8>, number: u32) {
    let bitmap = (1_u32 << VERSION).to_be_bytes();
    short(out, kind::HELLO, number, &[[0, 1, 0, 8], bitmap].concat());
}

/// The answer to an echo request, with its content. That came in a message, so it fits into one.
pub(super) fn echo_reply(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    short(out, kind::ECHO_REPLY, number, content);
}

/// Nothing is to be sent unasked: six empty masks (§7.3.10).
pub(super) fn set_async(out: &mut Vec<u8>, number: u32) {
    short(out, kind::SET_ASYNC, number, &[0; 24]);
}

/// Answered when everything before it is done.
pub(super) fn barrier(out: &mut Vec<u8>, number: u32) {
    short(out, kind::BARRIER_REQUEST, number, &[]);
}

/// Asks for all ports (§7.3.5.7).
pub(super) fn ports(out: &mut Vec<u8>, number: u32) {
    short(out, kind::MULTIPART_REQUEST, number, &[&part::PORTS.to_be_bytes()[..], &[0; 6]].concat());
}

/// Asks for all flows of all tables (§7.3.5.2).
pub(super) fn flows(out: &mut Vec<u8>, number: u32) {
    let mut body = Vec::with_capacity(48);
    body.extend(part::FLOWS.to_be_bytes());
    body.extend([0; 6]);
    body.extend([ANY_TABLE, 0, 0, 0]);
    body.extend(ANY.to_be_bytes());
    body.extend(ANY.to_be_bytes());
    // Padding, then any cookie.
    body.extend([0; 4 + 8 + 8]);
    // An empty match.
    body.extend([0, 1, 0, 4, 0, 0, 0, 0]);
    short(out, kind::MULTIPART_REQUEST, number, &body);
}

/// Adds a flow, or deletes one.
pub(super) fn flow_mod(out: &mut Vec<u8>, number: u32, change: &Change) -> Result<(), TooLong> {
    message(out, kind::FLOW_MOD, number, |out| change.encode(out))
}
