//! Flows: what they match, what they do, and what the switch says of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::read::{Malformed, Reading};
use super::{ANY, TooLong, length};

/// The port that switches as an ordinary switch would: by what it has learned.
pub(in super::super) const NORMAL: u32 = 0xffff_fffa;
/// The port a frame came in by; it never leaves by it otherwise.
pub(in super::super) const PORT_IN: u32 = 0xffff_fff8;

/// Fields of frames (§7.2.3.7), and Open vSwitch's own of tunnels (`ovs-fields(7)`): class, field.
mod field {
    pub(super) const PORT: (u16, u8) = (0x8000, 0);
    pub(super) const TARGET: (u16, u8) = (0x8000, 3);
    pub(super) const SOURCE: (u16, u8) = (0x8000, 4);
    pub(super) const TUNNEL_END: (u16, u8) = (0x0001, 32);
    pub(super) const TUNNEL_END6: (u16, u8) = (0x0001, 110);
}

const MATCH_FIELDS: u16 = 1;
const GOTO: u16 = 1;
const APPLY: u16 = 4;
const OUTPUT: u16 = 0;
const SET_FIELD: u16 = 25;
const ADD: u8 = 0;
const DELETE_STRICT: u8 = 4;
/// The most actions a flow may have that is read.
const STEPS_MAX: usize = 8_192;

/// Which frames. What is `None` may be anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Match {
    /// That came in by this port.
    pub(in super::super) port: Option<u32>,
    /// To these addresses: all that are equal under the mask.
    pub(in super::super) target: Option<([u8; 6], [u8; 6])>,
    /// From this address.
    pub(in super::super) source: Option<[u8; 6]>,
}

/// What is done with a frame, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Step {
    /// From here on tunnels lead to this end, unless an IPv4 one is set, which comes first.
    End(IpAddr),
    /// A copy of it leaves by this port.
    Output(u32),
    /// It goes through this table.
    Table(u8),
}

/// One line of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Flow {
    pub(in super::super) table: u8,
    pub(in super::super) priority: u16,
    pub(in super::super) matching: Match,
    pub(in super::super) steps: Vec<Step>,
}

/// What is to become of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Change {
    /// It is there, instead of one of the same table, priority and match, whose counters it takes over (§6.4).
    Add { flow: Flow, cookie: u64 },
    /// There is none of this table, priority and match.
    Delete { table: u8, priority: u16, matching: Match },
    /// The same, with a match as it was read.
    DeleteRead { table: u8, priority: u16, matching: Vec<u8> },
}

/// A flow as the switch has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct FlowStats {
    pub(in super::super) table: u8,
    pub(in super::super) priority: u16,
    pub(in super::super) cookie: u64,
    pub(in super::super) packets: u64,
    pub(in super::super) bytes: u64,
    /// Whether it has neither timeouts nor flags, as ours.
    pub(in super::super) plain: bool,
    /// What it matches; `None` if that is nothing we would write.
    pub(in super::super) matching: Option<Match>,
    /// The same as it was read.
    pub(in super::super) matching_read: Vec<u8>,
    /// What it does; `None` as above.
    pub(in super::super) steps: Option<Vec<Step>>,
}

impl Change {
    /// The body of a flow-mod (§7.3.4.1).
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let (cookie, table, command, priority) = match self {
            Self::Add { flow, cookie } => (*cookie, flow.table, ADD, flow.priority),
            Self::Delete { table, priority, .. } | Self::DeleteRead { table, priority, .. } => {
                (0, *table, DELETE_STRICT, *priority)
            }
        };
        out.extend(cookie.to_be_bytes());
        // Of no cookie in particular.
        out.extend([0; 8]);
        out.extend([table, command]);
        // Without timeouts.
        out.extend([0; 4]);
        out.extend(priority.to_be_bytes());
        for _ in ["buffer", "port", "group"] {
            out.extend(ANY.to_be_bytes());
        }
        // No flags, padding.
        out.extend([0; 4]);
        match self {
            Self::Add { flow, .. } => {
                flow.matching.encode(out);
                encode_steps(&flow.steps, out)
            }
            Self::Delete { matching, .. } => {
                matching.encode(out);
                Ok(())
            }
            Self::DeleteRead { matching, .. } => encode_match(matching, out),
        }
    }
}

impl Match {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut fields = Vec::with_capacity(40);
        if let Some(port) = self.port {
            encode_field(field::PORT, &port.to_be_bytes(), &mut fields);
        }
        match self.target {
            Some((address, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff])) => encode_field(field::TARGET, &address, &mut fields),
            Some((address, mask)) => {
                let at = fields.len();
                encode_field(field::TARGET, &[address, mask].concat(), &mut fields);
                // The lowest bit of the field's byte says that there is a mask.
                fields[at + 2] |= 1;
            }
            None => {}
        }
        if let Some(address) = self.source {
            encode_field(field::SOURCE, &address, &mut fields);
        }
        let written = encode_match(&fields, out);
        debug_assert_eq!(written, Ok(()), "three fields fit");
    }

    /// `None` if there is a field that we never write.
    fn decode(fields: &[u8]) -> Result<Option<Self>, Malformed> {
        let (mut matching, mut reading) = (Self::default(), Reading::new("a match", fields));
        let mut known = true;
        while !reading.is_empty() {
            let (class, field, masked, value) = decode_field(&mut reading)?;
            match ((class, field), masked, value) {
                (field::PORT, false, [a, b, c, d]) => matching.port = Some(u32::from_be_bytes([*a, *b, *c, *d])),
                (field::TARGET, false, value) => match value.try_into() {
                    Ok(address) => matching.target = Some((address, [0xff; 6])),
                    Err(_) => known = false,
                },
                (field::TARGET, true, value) => {
                    match value.split_at_checked(6).map(|(a, m)| (a.try_into(), m.try_into())) {
                        Some((Ok(address), Ok(mask))) => matching.target = Some((address, mask)),
                        _ => known = false,
                    }
                }
                (field::SOURCE, false, value) => match value.try_into() {
                    Ok(address) => matching.source = Some(address),
                    Err(_) => known = false,
                },
                _ => known = false,
            }
        }
        Ok(known.then_some(matching))
    }
}

impl FlowStats {
    /// One of a reply (§7.3.5.2), without its length.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reading = Reading::new("a flow", bytes);
        let table = reading.u8()?;
        // Padding and age.
        reading.take(1 + 4 + 4)?;
        let priority = reading.u16()?;
        let settings = reading.take(2 + 2 + 2)?;
        reading.take(4)?;
        let (cookie, packets, bytes) = (reading.u64()?, reading.u64()?, reading.u64()?);
        let kind = reading.u16()?;
        let length = usize::from(reading.u16()?);
        let fields = reading.take(length.checked_sub(4).ok_or(Malformed { what: "the length of a match" })?)?.to_vec();
        reading.take(length.next_multiple_of(8) - length)?;
        let matching = if kind == MATCH_FIELDS { Match::decode(&fields)? } else { None };
        Ok(Self {
            table,
            priority,
            cookie,
            packets,
            bytes,
            plain: settings.iter().all(|byte| *byte == 0),
            matching,
            matching_read: fields,
            steps: decode_instructions(&mut reading)?,
        })
    }
}

/// Header, fields, padding to eight bytes (§7.2.3.1).
fn encode_match(fields: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
    let bytes = fields.len() + 4;
    out.extend(MATCH_FIELDS.to_be_bytes());
    out.extend(length(bytes)?.to_be_bytes());
    out.extend(fields);
    out.resize(out.len() + bytes.next_multiple_of(8) - bytes, 0);
    Ok(())
}

fn encode_field((class, field): (u16, u8), value: &[u8], out: &mut Vec<u8>) {
    out.extend(class.to_be_bytes());
    out.extend([field << 1, value.len() as u8]);
    out.extend(value);
}

/// Class, field, whether it is masked, value and mask.
fn decode_field<'a>(reading: &mut Reading<'a>) -> Result<(u16, u8, bool, &'a [u8]), Malformed> {
    let (class, field, bytes) = (reading.u16()?, reading.u8()?, reading.u8()?);
    Ok((class, field >> 1, field & 1 == 1, reading.take(bytes.into())?))
}

/// Actions in one instruction, and the next table in another (§7.2.4).
fn encode_steps(steps: &[Step], out: &mut Vec<u8>) -> Result<(), TooLong> {
    let start = out.len();
    out.extend(APPLY.to_be_bytes());
    out.extend([0; 6]);
    for step in steps {
        match step {
            Step::Output(port) => {
                out.extend(OUTPUT.to_be_bytes());
                out.extend(16_u16.to_be_bytes());
                out.extend(port.to_be_bytes());
                out.extend([0; 8]);
            }
            Step::End(IpAddr::V4(end)) => encode_set(field::TUNNEL_END, &end.octets(), out),
            Step::End(IpAddr::V6(end)) => encode_set(field::TUNNEL_END6, &end.octets(), out),
            Step::Table(_) => {}
        }
    }
    let bytes = out.len() - start;
    if bytes == 8 {
        out.truncate(start);
    } else {
        out[start + 2..start + 4].copy_from_slice(&length(bytes)?.to_be_bytes());
    }
    for step in steps {
        if let Step::Table(table) = step {
            out.extend(GOTO.to_be_bytes());
            out.extend([0, 8, *table, 0, 0, 0]);
        }
    }
    Ok(())
}

/// One set-field action, padded to eight bytes (§7.2.5).
fn encode_set(field: (u16, u8), value: &[u8], out: &mut Vec<u8>) {
    let bytes = (4 + 4 + value.len()).next_multiple_of(8);
    let start = out.len();
    out.extend(SET_FIELD.to_be_bytes());
    out.extend((bytes as u16).to_be_bytes());
    encode_field(field, value, out);
    out.resize(start + bytes, 0);
}

/// `None` if something is done that we never write.
fn decode_instructions(reading: &mut Reading<'_>) -> Result<Option<Vec<Step>>, Malformed> {
    let (mut steps, mut known) = (Vec::new(), true);
    while !reading.is_empty() {
        let (kind, mut body) = reading.element("an instruction")?;
        match kind {
            GOTO => steps.push(Step::Table(body.u8()?)),
            APPLY => {
                body.take(4)?;
                known &= decode_actions(&mut body, &mut steps)?;
            }
            _ => known = false,
        }
    }
    Ok(known.then_some(steps))
}

fn decode_actions(reading: &mut Reading<'_>, steps: &mut Vec<Step>) -> Result<bool, Malformed> {
    let mut known = true;
    while !reading.is_empty() {
        let (kind, mut body) = reading.element("an action")?;
        if steps.len() == STEPS_MAX {
            return Err(Malformed { what: "the number of actions of a flow" });
        }
        match kind {
            OUTPUT => steps.push(Step::Output(body.u32()?)),
            SET_FIELD => {
                let (class, field, _, value) = decode_field(&mut body)?;
                match end((class, field), value) {
                    Some(end) => steps.push(Step::End(end)),
                    None => known = false,
                }
            }
            _ => known = false,
        }
    }
    Ok(known)
}

fn end(field: (u16, u8), value: &[u8]) -> Option<IpAddr> {
    match field {
        field::TUNNEL_END => <[u8; 4]>::try_from(value).ok().map(|octets| Ipv4Addr::from(octets).into()),
        field::TUNNEL_END6 => <[u8; 16]>::try_from(value).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    }
}
