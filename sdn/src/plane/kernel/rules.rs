//! What nftables does at the tunnel: it counts, and passes frames on for addresses that have left this node.
//!
//! ```text
//!  ingress of vx0: to @relay? out by vx0 again. Else counted, and into the bridge.
//!  egress of vx0:  counted, and encapsulated.
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

use super::Config;
use crate::model::Mac;
use crate::nft;
use crate::plane::{Counters, PlaneError};

const FAMILY: &str = "netdev";
/// Elements in one command: nft's grammar sets no limit, its memory does.
const ELEMENTS_AT_ONCE: usize = 2000;

/// The sets, and what is asked of a frame for each.
const TO: &str = "to";
const FROM: &str = "from";
const RELAY: &str = "relay";

/// What the table holds.
#[derive(Default)]
pub(super) struct Rules {
    pub(super) counters: BTreeMap<Mac, Counters>,
    pub(super) to: BTreeSet<Mac>,
    pub(super) from: BTreeSet<Mac>,
    pub(super) relay: BTreeSet<Mac>,
}

/// Changes to the sets, for one transaction.
#[derive(Default)]
pub(super) struct Elements {
    counted: Vec<Mac>,
    not_counted: Vec<Mac>,
    relayed: Vec<Mac>,
    not_relayed: Vec<Mac>,
}

impl Elements {
    pub(super) fn set(&mut self, mac: Mac, relay: bool) {
        self.counted.push(mac);
        if relay { self.relayed.push(mac) } else { self.not_relayed.push(mac) }
    }

    pub(super) fn remove(&mut self, mac: Mac) {
        self.not_counted.push(mac);
        self.not_relayed.push(mac);
    }

    pub(super) fn apply(&self, config: &Config) -> Result<(), PlaneError> {
        let mut text = String::new();
        for set in [TO, FROM] {
            write(&mut text, config, "add", set, &self.counted);
            withdraw(&mut text, config, set, &self.not_counted);
        }
        write(&mut text, config, "add", RELAY, &self.relayed);
        withdraw(&mut text, config, RELAY, &self.not_relayed);
        if text.is_empty() { Ok(()) } else { nft::run(&text, "change what is counted and passed on") }
    }
}

/// What is not there cannot be deleted, so it is added first: in one transaction nobody sees that.
fn withdraw(text: &mut String, config: &Config, set: &str, macs: &[Mac]) {
    write(text, config, "add", set, macs);
    write(text, config, "delete", set, macs);
}

fn write(text: &mut String, config: &Config, verb: &str, set: &str, macs: &[Mac]) {
    for macs in macs.chunks(ELEMENTS_AT_ONCE) {
        let elements: Vec<_> = macs.iter().map(Mac::to_string).collect();
        let _ = writeln!(text, "{verb} element {FAMILY} {} {set} {{ {} }}", name(config), elements.join(", "));
    }
}

/// Reads the table; `None` if it is not there, or not as it should be.
pub(super) fn read(config: &Config) -> Result<Option<Rules>, PlaneError> {
    let list = nft::table(FAMILY, &name(config))?;
    Ok(list.filter(|list| shape(list) == wanted_shape(config)).map(|list| Rules::of(&list)))
}

/// Makes the table anew. What it counted is lost.
pub(super) fn make(config: &Config) -> Result<(), PlaneError> {
    let (table, device) = (name(config), &config.tunnel);
    let text = format!(
        "add table {FAMILY} {table}\n\
         delete table {FAMILY} {table}\n\
         table {FAMILY} {table} {{\n\
         set {TO} {{ type ether_addr; counter; }}\n\
         set {FROM} {{ type ether_addr; counter; }}\n\
         set {RELAY} {{ type ether_addr; }}\n\
         chain in {{ type filter hook ingress device \"{device}\" priority 0; policy accept;\n\
         ether daddr @{RELAY} fwd to \"{device}\"\n\
         ether daddr @{TO}\n\
         ether saddr @{FROM}\n\
         }}\n\
         chain out {{ type filter hook egress device \"{device}\" priority 0; policy accept;\n\
         ether daddr @{TO}\n\
         ether saddr @{FROM}\n\
         }}\n\
         }}\n"
    );
    nft::run(&text, &format!("count and pass on at {device}"))
}

/// Names of devices may hold what names of tables may not.
fn name(config: &Config) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
    format!("roam_{}", config.tunnel.chars().map(plain).collect::<String>())
}

impl Rules {
    fn of(list: &[Value]) -> Self {
        let mut rules = Self::default();
        for (mac, packets, bytes) in counted(list, TO) {
            let counters = rules.counters.entry(mac).or_default();
            (counters.to_packets, counters.to_bytes) = (packets, bytes);
            rules.to.insert(mac);
        }
        for (mac, packets, bytes) in counted(list, FROM) {
            let counters = rules.counters.entry(mac).or_default();
            (counters.from_packets, counters.from_bytes) = (packets, bytes);
            rules.from.insert(mac);
        }
        rules.relay = nft::elements(list, "set", RELAY).filter_map(mac_of).collect();
        rules
    }
}

fn counted(list: &[Value], set: &str) -> impl Iterator<Item = (Mac, u64, u64)> {
    nft::elements(list, "set", set).filter_map(|element| {
        let inner = &element["elem"];
        let figure = |what: &str| inner["counter"][what].as_u64().unwrap_or(0);
        Some((mac_of(&inner["val"])?, figure("packets"), figure("bytes")))
    })
}

fn mac_of(element: &Value) -> Option<Mac> {
    element.as_str()?.parse().ok()
}

/// The table without its elements, in words that no version of nft writes differently.
fn shape(list: &[Value]) -> BTreeSet<String> {
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut shape = BTreeSet::new();
    let mut places = BTreeMap::<String, usize>::new();
    for item in list {
        if let Some(set) = item.get("set") {
            shape.insert(format!("set {} {}", word(&set["name"]), word(&set["type"])));
        } else if let Some(chain) = item.get("chain") {
            shape.insert(format!("chain {} {} {}", word(&chain["name"]), word(&chain["hook"]), word(&chain["policy"])));
        } else if let Some(rule) = item.get("rule") {
            let chain = word(&rule["chain"]);
            let place = places.entry(chain.clone()).or_default();
            let mut text = format!("rule {chain} {place}");
            *place += 1;
            for part in rule["expr"].as_array().into_iter().flatten() {
                let (looked, forward) = (&part["match"], &part["fwd"]);
                let _ = match (looked.is_object(), forward.is_object()) {
                    (true, _) => {
                        write!(text, " {} {}", word(&looked["left"]["payload"]["field"]), word(&looked["right"]))
                    }
                    (_, true) => write!(text, " fwd {}", word(&forward["dev"])),
                    _ => write!(text, " {part}"),
                };
            }
            shape.insert(text);
        }
    }
    shape
}

fn wanted_shape(config: &Config) -> BTreeSet<String> {
    [
        format!("set {TO} ether_addr"),
        format!("set {FROM} ether_addr"),
        format!("set {RELAY} ether_addr"),
        "chain in ingress accept".into(),
        "chain out egress accept".into(),
        format!("rule in 0 daddr @{RELAY} fwd {}", config.tunnel),
        format!("rule in 1 daddr @{TO}"),
        format!("rule in 2 saddr @{FROM}"),
        format!("rule out 0 daddr @{TO}"),
        format!("rule out 1 saddr @{FROM}"),
    ]
    .into()
}
