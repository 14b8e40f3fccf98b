//! The table of fronts, written and read.
//!
//! One transaction sets it right whatever it was before, and deletes neither table nor chains: were the last chain of
//! its kind to go, the kernel would stop translating flows that are under way.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::model::{Front, Protocol};
use crate::nft;

pub(super) const FAMILY: &str = "inet";
/// Fronts in one command.
const FRONTS_AT_ONCE: usize = 1000;

/// A map: what it is for, and what nftables calls that.
struct Map {
    name: &'static str,
    protocol: Protocol,
    is_ipv4: bool,
}

const MAPS: [Map; 4] = [
    Map { name: "tcp4", protocol: Protocol::Tcp, is_ipv4: true },
    Map { name: "udp4", protocol: Protocol::Udp, is_ipv4: true },
    Map { name: "tcp6", protocol: Protocol::Tcp, is_ipv4: false },
    Map { name: "udp6", protocol: Protocol::Udp, is_ipv4: false },
];

/// Chains where flows begin: those from outside, and this node's own.
const BEGINNINGS: [(&str, &str); 2] = [("outside", "prerouting"), ("own", "output")];
/// Where they leave.
const AWAY: &str = "away";

impl Map {
    fn has(&self, front: &Front) -> bool {
        (self.protocol, self.is_ipv4) == (front.protocol, front.listen.is_ipv4())
    }

    /// What nftables calls the family.
    fn family(&self) -> &'static str {
        if self.is_ipv4 { "ip" } else { "ip6" }
    }

    /// What it calls its addresses.
    fn kind(&self) -> &'static str {
        if self.is_ipv4 { "ipv4_addr" } else { "ipv6_addr" }
    }
}

/// The table's name. Names of devices may hold what names of tables may not.
pub(super) fn table(bridge: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
    format!("roam_fronts_{}", bridge.chars().map(plain).collect::<String>())
}

/// The transaction that has these fronts and no others.
pub(super) fn text(bridge: &str, fronts: &[Front]) -> String {
    let table = table(bridge);
    let mut text = format!("add table {FAMILY} {table}\n");
    for (chain, hook) in BEGINNINGS {
        let _ = write!(
            text,
            "add chain {FAMILY} {table} {chain} {{ type nat hook {hook} priority -100; policy accept; }}\n\
             flush chain {FAMILY} {table} {chain}\n"
        );
    }
    let _ = write!(
        text,
        "add chain {FAMILY} {table} {AWAY} {{ type nat hook postrouting priority 100; policy accept; }}\n\
         flush chain {FAMILY} {table} {AWAY}\n\
         add rule {FAMILY} {table} {AWAY} ct status dnat oifname \"{bridge}\" masquerade\n"
    );
    for map in &MAPS {
        let (name, kind, family, protocol) = (map.name, map.kind(), map.family(), map.protocol);
        let _ = write!(
            text,
            "add map {FAMILY} {table} {name} {{ type {kind} . inet_service : {kind} . inet_service; }}\n\
             flush map {FAMILY} {table} {name}\n"
        );
        for (chain, _) in BEGINNINGS {
            let key = format!("{family} daddr . {protocol} dport");
            let _ = writeln!(text, "add rule {FAMILY} {table} {chain} dnat {family} to {key} map @{name}");
        }
        let its: Vec<_> = fronts.iter().filter(|front| map.has(front)).map(element).collect();
        for elements in its.chunks(FRONTS_AT_ONCE) {
            let _ = writeln!(text, "add element {FAMILY} {table} {name} {{ {} }}", elements.join(", "));
        }
    }
    text
}

fn element(front: &Front) -> String {
    let (listen, to) = (front.listen, front.to);
    format!("{} . {} : {} . {}", listen.ip(), listen.port(), to.ip(), to.port())
}

/// The fronts that a table has; none that does not work for want of a rule.
pub(super) fn read(list: &[Value], bridge: &str) -> Vec<Front> {
    let masquerades = has_chain(list, AWAY, "postrouting")
        && has_rule(list, AWAY, &["masquerade", &format!("\"{bridge}\""), "oifname"]);
    let begins = |map: &Map| {
        let leads = |(chain, hook)| {
            has_chain(list, chain, hook) && has_rule(list, chain, &["dnat", &format!("\"@{}\"", map.name)])
        };
        BEGINNINGS.into_iter().all(leads)
    };
    let whole = MAPS.iter().filter(|map| masquerades && begins(map));
    whole.flat_map(|map| nft::elements(list, "map", map.name).filter_map(|element| front(map, element))).collect()
}

fn front(map: &Map, element: &Value) -> Option<Front> {
    let (listen, to) = (socket(element.get(0)?)?, socket(element.get(1)?)?);
    Some(Front { protocol: map.protocol, listen, to })
}

fn socket(value: &Value) -> Option<SocketAddr> {
    let parts = &value["concat"];
    let ip: IpAddr = parts[0].as_str()?.parse().ok()?;
    Some(SocketAddr::new(ip, parts[1].as_u64()?.try_into().ok()?))
}

fn has_chain(list: &[Value], name: &str, hook: &str) -> bool {
    list.iter().filter_map(|item| item.get("chain")).any(|chain| chain["name"] == name && chain["hook"] == hook)
}

fn has_rule(list: &[Value], chain: &str, words: &[&str]) -> bool {
    let rules = list.iter().filter_map(|item| item.get("rule")).filter(|rule| rule["chain"] == chain);
    rules.map(|rule| rule["expr"].to_string()).any(|text| words.iter().all(|word| text.contains(word)))
}
