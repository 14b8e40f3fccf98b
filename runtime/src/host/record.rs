//! What is on record of a guest.

use std::fmt;
use std::str::FromStr;

use roam_sdn::model::Generation;
use serde::{Deserialize, Serialize};

use crate::api::{End, GuestSpec, GuestState, GuestView, NetworkView};

/// Format of [`Record`]; a newer one is refused, an older one is converted when there is one.
pub(super) const RECORD_VERSION: u32 = 1;

/// Tells a guest from a later one of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct GuestId(u64);

/// Outside uids of workers begin here: out of the way of people, services and containers.
const UID_FIRST: u32 = 0x7000_0000;
/// Bits of a guest's id that make its uid.
const UID_BITS: u32 = 24;

impl GuestId {
    /// The uid of the compiling worker, which is no guest's.
    pub(super) const COMPILER_UID: u32 = UID_FIRST + (1 << UID_BITS);

    pub(super) fn new(random: u64) -> Self {
        Self(random)
    }

    /// Who its worker is outside its jail.
    pub(super) fn uid(self) -> u32 {
        UID_FIRST + (self.0 & ((1 << UID_BITS) - 1)) as u32
    }

    /// Its TAP. A device's name has 15 bytes.
    pub(super) fn tap(self) -> String {
        format!("rt{:012x}", self.0 >> 16)
    }
}

impl fmt::Display for GuestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for GuestId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let id = u64::from_str_radix(text, 16).ok().filter(|_| digits);
        id.map(Self).ok_or_else(|| format!("`{text}` is no guest's id: 16 hex digits"))
    }
}

impl TryFrom<String> for GuestId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<GuestId> for String {
    fn from(id: GuestId) -> Self {
        id.to_string()
    }
}

/// What is to be of a guest. It is written before it is acted upon, so that a crash between the two is made up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Standing {
    /// A worker serves it, or is being started to.
    Run,
    /// A worker waits for it to come from another host, or to be restored from an image. A daemon that finds it so, and a worker that still waits, ends that and
    /// forgets it; if the worker serves, the guest has come.
    Arriving,
    /// It ended and is to be started again.
    Again,
    /// It ended and stays so.
    Ended,
    /// It ended too often.
    Parked,
    /// Its address is another host's; it is not to run unless that is granted anew.
    Fenced,
    /// An operator stopped it.
    Stopped,
    /// An operator deleted it; what is left of it is to go.
    Deleted,
}

/// A guest, as it outlives the daemon and the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// [`RECORD_VERSION`].
    pub(super) version: u32,
    /// Goes up with every change: the newer of two copies is the one that counts.
    pub(super) revision: u64,
    pub(super) id: GuestId,
    pub(super) spec: GuestSpec,
    pub(super) network: NetworkView,
    pub(super) standing: Standing,
    pub(super) created_ms: u64,
    /// Times it was started again without an operator's doing.
    pub(super) restarts: u64,
    /// Ends in a row, each soon after its start.
    pub(super) quick_ends: u32,
    pub(super) last_end: Option<End>,
    /// The generation it has its address since, where a controller says whose addresses are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) generation: Option<Generation>,
    /// The session that it came with, if it came from another host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) arrived: Option<String>,
    /// The generation that it came from, if a controller granted it the next: early, so that it may have forgotten that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) moved_from: Option<Generation>,
}

impl Record {
    /// Of a guest that is being created.
    pub(super) fn new(id: GuestId, spec: GuestSpec, network: NetworkView, created_ms: u64) -> Self {
        Self {
            version: RECORD_VERSION,
            revision: 1,
            id,
            spec,
            network,
            standing: Standing::Run,
            created_ms,
            restarts: 0,
            quick_ends: 0,
            last_end: None,
            generation: None,
            arrived: None,
            moved_from: None,
        }
    }

    /// With a change, as the next revision.
    pub(super) fn changed(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut next = Self { revision: self.revision + 1, ..self.clone() };
        change(&mut next);
        next
    }

    /// The generation that its address was moved here from, if nothing has happened to it since: who asks for it once more
    /// is answered alike, and by a controller that has forgotten it granted anew.
    pub(super) fn moved_from(&self) -> Option<Generation> {
        self.moved_from.filter(|from| self.generation.is_none_or(|generation| generation == from.next()))
    }

    /// How it looks from outside.
    pub(super) fn view(&self, state: GuestState, since_ms: u64, pid: Option<u32>) -> GuestView {
        GuestView {
            id: self.id.to_string(),
            spec: self.spec.clone(),
            network: self.network.clone(),
            state,
            // A daemon that has just started knows no better than the record.
            since_ms: match (&self.last_end, state) {
                (Some(end), GuestState::Ended | GuestState::Parked | GuestState::Fenced) => end.at_ms,
                _ => since_ms,
            },
            pid,
            responsive: pid.is_some(),
            restarts: self.restarts,
            last_end: self.last_end.clone(),
            created_ms: self.created_ms,
            generation: self.generation,
            migration: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_sixteen_hex_digits() {
        let id = GuestId::new(0xabcd);
        assert_eq!(id.to_string(), "000000000000abcd");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(GuestId::new(u64::MAX).tap(), "rtffffffffffff");
        assert!(GuestId::new(u64::MAX).uid() < GuestId::COMPILER_UID);
        for text in ["", "abcd", "000000000000ABCD", "+00000000000abcd", "../../../../../etc", "000000000000abcd0"] {
            assert!(text.parse::<GuestId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_record_from_before_generations_is_read() {
        let network = serde_json::json!({"mac": "02:00:00:00:00:01", "tap": "rt0"});
        let network = serde_json::from_value(network).unwrap();
        let spec = GuestSpec::new("a".parse().unwrap(), crate::engine::ModuleHash([0; 32]));
        let record = Record::new(GuestId::new(1), spec, network, 0);
        let json = serde_json::to_value(&record).unwrap();
        assert!(json.get("generation").is_none());
        assert_eq!(serde_json::from_value::<Record>(json.clone()).unwrap(), record);
        let granted = record.changed(|record| record.generation = Some(Generation(3)));
        let json = serde_json::to_value(&granted).unwrap();
        assert_eq!(
            (&json["generation"], serde_json::from_value::<Record>(json.clone()).unwrap()),
            (&3.into(), granted)
        );
    }
}
