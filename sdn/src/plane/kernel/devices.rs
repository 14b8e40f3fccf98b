//! The two devices, and the settings of theirs that the plane needs.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use nix::errno::Errno;

use super::socket::Link;
use super::{Config, refused};
use crate::model::Kind;
use crate::plane::PlaneError;

/// The devices' numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Devices {
    pub(super) tunnel: u32,
    pub(super) bridge: u32,
}

/// What is read of a device.
struct Device {
    index: u32,
    kind: Option<InfoKind>,
    bridge: Option<u32>,
    /// The VXLAN device learns whence frames come.
    tunnel_learns: bool,
    /// The bridge learns at this port.
    port_learns: bool,
    /// The bridge answers ARP and NS in place of this port.
    answers: bool,
    up: bool,
    address: Option<Vec<u8>>,
}

impl Devices {
    /// Finds them, and what of their settings is wrong, in words.
    pub(super) fn find(link: &mut Link, config: &Config) -> Result<(Self, Vec<String>), PlaneError> {
        let (tunnel_name, bridge_name) = (&config.tunnel, &config.bridge);
        let wrong = |device: &str, how: String| PlaneError::Device { device: device.into(), how };
        let bridge = Device::look(link, bridge_name)?.ok_or_else(|| {
            wrong(
                bridge_name,
                format!("there is no such device; make the bridge: `ip link add {bridge_name} type bridge`"),
            )
        })?;
        if bridge.kind != Some(InfoKind::Bridge) {
            return Err(wrong(bridge_name, "is no bridge; name the one that the guests' devices are in".into()));
        }
        let tunnel = Device::look(link, tunnel_name)?.ok_or_else(|| {
            let how = "there is no such device; make it, for example by";
            let command = format!("ip link add {tunnel_name} type vxlan id 90 local ADDRESS dstport 4789 nolearning");
            wrong(tunnel_name, format!("{how} `{command}`"))
        })?;
        if tunnel.kind != Some(InfoKind::Vxlan) {
            return Err(wrong(tunnel_name, "is no VXLAN device; name the one that joins the hosts".into()));
        }
        if tunnel.bridge != Some(bridge.index) {
            let how = format!("is not in {bridge_name}; plug it in: `ip link set {tunnel_name} master {bridge_name}`");
            return Err(wrong(tunnel_name, how));
        }
        let answered = match config.kind {
            Kind::Gateway => format!("{bridge_name} did not answer ARP for {tunnel_name} (neigh_suppress)"),
            Kind::Host => format!("{bridge_name} answered ARP for {tunnel_name} (neigh_suppress)"),
        };
        let settings = [
            (tunnel.tunnel_learns, format!("{tunnel_name} learnt where addresses are")),
            (tunnel.port_learns, format!("{bridge_name} learnt from {tunnel_name} where addresses are")),
            (tunnel.answers != answers(config), answered),
            (!tunnel.up, format!("{tunnel_name} was down")),
            (!bridge.up, format!("{bridge_name} was down")),
        ];
        let unprepared = settings.into_iter().filter_map(|(wrong, how)| wrong.then_some(how)).collect();
        Ok((Self { tunnel: tunnel.index, bridge: bridge.index }, unprepared))
    }

    /// Has them set as the plane needs them.
    pub(super) fn set(self, link: &mut Link, config: &Config) -> Result<(), PlaneError> {
        let tunnel =
            [LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(vec![InfoVxlan::Learning(false)]))];
        let port = vec![InfoBridgePort::Learning(false), InfoBridgePort::NeighSupress(answers(config))];
        let port = [LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(InfoPortData::BridgePort(port))];
        for info in [tunnel, port] {
            let mut message = LinkMessage::default();
            message.header.index = self.tunnel;
            message.attributes.push(LinkAttribute::LinkInfo(info.to_vec()));
            link.change(RouteNetlinkMessage::NewLink(message), 0)
                .map_err(|error| refused(error, || format!("set up {}", config.tunnel)))?;
        }
        for (index, name) in [(self.bridge, &config.bridge), (self.tunnel, &config.tunnel)] {
            let mut message = LinkMessage::default();
            message.header.index = index;
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
            link.change(RouteNetlinkMessage::NewLink(message), 0)
                .map_err(|error| refused(error, || format!("bring up {name}")))?;
        }
        Ok(())
    }

    /// A bridge that was given no address takes the lowest of its ports' and forgets its neighbours, the permanent ones as
    /// well, each time that changes. So it is given the one it has; which makes it forget them, too, once.
    pub(super) fn pin(self, link: &mut Link, config: &Config) -> Result<(), PlaneError> {
        let Some(address) = Device::look(link, &config.bridge)?.and_then(|bridge| bridge.address) else {
            return Ok(());
        };
        let mut message = LinkMessage::default();
        message.header.index = self.bridge;
        message.attributes.push(LinkAttribute::Address(address));
        link.change(RouteNetlinkMessage::NewLink(message), 0)
            .map_err(|error| refused(error, || format!("keep the address of {}", config.bridge)))
    }
}

/// Only a gateway's bridge answers in the name of addresses: it would keep announcements from leaving a host.
fn answers(config: &Config) -> bool {
    config.kind == Kind::Gateway
}

/// Spares a port frames to addresses that the bridge does not know.
pub(super) fn spare(link: &mut Link, index: u32) -> io::Result<()> {
    let port = LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::UnicastFlood(false)]));
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(InfoPortKind::Bridge), port]));
    link.change(RouteNetlinkMessage::NewLink(message), 0)
}

/// The number of a device, if there is one of that name.
pub(super) fn index_of(link: &mut Link, name: &str) -> Result<Option<u32>, PlaneError> {
    Ok(Device::look(link, name)?.map(|device| device.index))
}

/// The name of a device.
pub(super) fn name_of(link: &mut Link, index: u32) -> Result<Option<String>, PlaneError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let name = ask(link, message, || format!("look at device {index}"))?.and_then(|link| {
        link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })
    });
    Ok(name)
}

impl Device {
    fn look(link: &mut Link, name: &str) -> Result<Option<Self>, PlaneError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        Ok(ask(link, message, || format!("look at device {name}"))?.map(|link| Self::read(&link)))
    }

    fn read(message: &LinkMessage) -> Self {
        let mut device = Self {
            index: message.header.index,
            kind: None,
            bridge: None,
            tunnel_learns: false,
            port_learns: false,
            answers: false,
            up: message.header.flags.contains(LinkFlags::Up),
            address: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Controller(index) => device.bridge = Some(*index),
                LinkAttribute::Address(address) => device.address = Some(address.clone()),
                LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| device.read_info(info)),
                _ => {}
            }
        }
        device
    }

    fn read_info(&mut self, info: &LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = Some(kind.clone()),
            LinkInfo::Data(InfoData::Vxlan(settings)) => {
                self.tunnel_learns = settings.contains(&InfoVxlan::Learning(true));
            }
            LinkInfo::PortData(InfoPortData::BridgePort(settings)) => {
                self.port_learns = settings.contains(&InfoBridgePort::Learning(true));
                self.answers = settings.contains(&InfoBridgePort::NeighSupress(true));
            }
            _ => {}
        }
    }
}

fn ask(
    link: &mut Link,
    message: LinkMessage,
    doing: impl FnOnce() -> String,
) -> Result<Option<LinkMessage>, PlaneError> {
    match link.one(RouteNetlinkMessage::GetLink(message)) {
        Ok(Some(RouteNetlinkMessage::NewLink(link))) => Ok(Some(link)),
        Ok(_) => Ok(None),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(refused(error, doing)),
    }
}

/// There is no such device.
pub(super) fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENODEV as i32)
}
