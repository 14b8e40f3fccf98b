//! The messages, built and read: forwarding entries (`bridge fdb`) and neighbours (`ip neighbour`).

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::model::Mac;

pub(super) const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;
pub(super) const APPEND: u16 = NLM_F_CREATE | NLM_F_APPEND;

/// The VXLAN entry of frames without an entry of their own.
pub(super) const UNKNOWN: Mac = Mac([0; 6]);
/// The VXLAN entry of broadcast.
pub(super) const BROADCAST: Mac = Mac([0xff; 6]);

/// Of the VXLAN device itself.
pub(super) const OF_TUNNEL: NeighbourFlags = NeighbourFlags::Own;
/// Of the bridge that a device is in.
pub(super) const OF_BRIDGE: NeighbourFlags = NeighbourFlags::Controller;

const NUD_REACHABLE: u16 = 0x02;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;

/// A forwarding entry that neither ages nor is learnt over: `static sticky`.
pub(super) fn entry(mac: Mac, device: u32, table: NeighbourFlags, end: Option<IpAddr>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = device;
    message.header.state = NeighbourState::Other(NUD_NOARP | NUD_REACHABLE);
    message.header.flags = table | NeighbourFlags::Sticky;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes.extend(end.map(|end| NeighbourAttribute::Destination(end.into())));
    message
}

/// A neighbour that is never asked for: the bridge answers in its name, and so need not flood.
pub(super) fn neighbour(ip: IpAddr, mac: Mac, bridge: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = bridge;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(ip.into()));
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message
}

/// Asks for all forwarding entries.
pub(super) fn all_entries() -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    RouteNetlinkMessage::GetNeighbour(message)
}

/// Asks for all neighbours, IPv4 and IPv6.
pub(super) fn all_neighbours() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default())
}

/// What a message of a dump says.
pub(super) struct Seen {
    pub(super) device: u32,
    pub(super) mac: Mac,
    /// A neighbour's address, or the end of a tunnel.
    pub(super) ip: Option<IpAddr>,
    pub(super) permanent: bool,
    /// Made by hand: neither learnt nor the device's own address.
    pub(super) fixed: bool,
    pub(super) sticky: bool,
    /// The VXLAN device's, not the bridge's.
    pub(super) of_tunnel: bool,
    pub(super) vlan: bool,
}

impl Seen {
    /// `None` of what has no Ethernet address.
    pub(super) fn read(message: RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
        Self::of(&message)
    }

    /// The same of a notification, of whichever kind.
    pub(super) fn of(message: &NeighbourMessage) -> Option<Self> {
        let (state, flags) = (u16::from(message.header.state), message.header.flags);
        let mut seen = Self {
            device: message.header.ifindex,
            mac: mac_of(message)?,
            ip: None,
            permanent: state & NUD_PERMANENT != 0,
            fixed: is_fixed(state),
            sticky: flags.contains(NeighbourFlags::Sticky),
            of_tunnel: flags.contains(OF_TUNNEL),
            vlan: false,
        };
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(address) => seen.ip = ip_of(address),
                NeighbourAttribute::Vlan(_) => seen.vlan = true,
                _ => {}
            }
        }
        Some(seen)
    }
}

/// The Ethernet address that a message is about.
fn mac_of(message: &NeighbourMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(&bytes[..]).ok().map(Mac),
        _ => None,
    })
}

/// Whether an entry is static, as we make them, and not the address of a device.
fn is_fixed(state: u16) -> bool {
    state & NUD_NOARP != 0 && state & NUD_PERMANENT == 0
}

fn ip_of(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(ip) => Some((*ip).into()),
        NeighbourAddress::Inet6(ip) => Some((*ip).into()),
        NeighbourAddress::Other(bytes) => {
            let four = <[u8; 4]>::try_from(&bytes[..]).ok().map(IpAddr::from);
            four.or_else(|| <[u8; 16]>::try_from(&bytes[..]).ok().map(IpAddr::from))
        }
        _ => None,
    }
}
