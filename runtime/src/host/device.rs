//! A guest's TAP, plugged into the host's bridge. Made by rtnetlink(7).
//!
//! The device is not persistent: it lives as long as its worker holds its descriptor, and cannot be left behind.

use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, State};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};

use crate::net::{Tap, TapError, TapOptions};

/// Frames that wait in a TAP for its worker: enough that a busy machine loses none while the worker waits for the CPU.
const QUEUE_FRAMES: u32 = 4096;
/// How long the device of a worker that was just killed may still be there.
const BUSY_LIMIT: Duration = Duration::from_secs(1);
const BUSY_STEP: Duration = Duration::from_millis(10);
/// How long the bridge may take to forward a new device's frames.
const LINK_LIMIT: Duration = Duration::from_secs(5);
const LINK_STEP: Duration = Duration::from_millis(1);

/// A conversation with the kernel about the devices of one network namespace.
#[derive(Clone)]
pub(super) struct Links {
    handle: Handle,
    bridge: String,
}

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It cannot be opened.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The kernel cannot be asked.
    #[error("the network devices cannot be configured (rtnetlink)")]
    Netlink(#[source] std::io::Error),
    /// The kernel refused.
    #[error("the device {device} cannot be {doing}")]
    Refused {
        /// Which.
        device: String,
        /// What was tried.
        doing: &'static str,
        /// What it said.
        #[source]
        source: rtnetlink::Error,
    },
    /// There is no bridge of that name.
    #[error(
        "there is no bridge {0}; make it (`ip link add {0} type bridge`, `ip link set {0} up`), or choose another with --bridge"
    )]
    NoBridge(String),
    /// The bridge is down.
    #[error("the bridge {0} is down; `ip link set {0} up`")]
    BridgeDown(String),
    /// No frames pass.
    #[error("the device {0} has no link after {LINK_LIMIT:?}; is its bridge up?")]
    NoLink(String),
}

impl Links {
    /// Talks about the namespace this thread is in.
    pub(super) fn open(bridge: String) -> Result<Self, DeviceError> {
        let (connection, handle, _messages) = rtnetlink::new_connection().map_err(DeviceError::Netlink)?;
        // Ends with the last handle.
        tokio::spawn(connection);
        Ok(Self { handle, bridge })
    }

    /// A TAP of that name in the bridge, up. It goes with the descriptor.
    pub(super) async fn tap(&self, name: &str, mtu: u16) -> Result<Tap, DeviceError> {
        let (bridge, _) = self.find_bridge().await?;
        let tap = open_tap(name, mtu).await?;
        let (index, _) = self.find(name).await?.ok_or_else(|| DeviceError::NoLink(name.into()))?;
        let quiet = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let settings = LinkUnspec::new_with_index(index)
            .txqueuelen(QUEUE_FRAMES)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![quiet]));
        self.set(name, "configured", settings).await?;
        let plugged = LinkUnspec::new_with_index(index).controller(bridge);
        self.set(name, "plugged into the bridge", plugged).await?;
        self.set(name, "brought up", LinkUnspec::new_with_index(index).up()).await?;
        Ok(tap)
    }

    /// What a device carries, bytes of IP; `None` if there is no such device.
    pub(super) async fn mtu(&self, name: &str) -> Result<Option<u32>, DeviceError> {
        let message = self.get(name).await?;
        Ok(message.and_then(|message| {
            message.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Mtu(bytes) => Some(*bytes),
                _ => None,
            })
        }))
    }

    /// Waits until what the device sends is forwarded.
    pub(super) async fn wait_for_link(&self, name: &str) -> Result<(), DeviceError> {
        let deadline = Instant::now() + LINK_LIMIT;
        while Instant::now() < deadline {
            if matches!(self.find(name).await?, Some((_, State::Up | State::Unknown))) {
                return Ok(());
            }
            tokio::time::sleep(LINK_STEP).await;
        }
        Err(DeviceError::NoLink(name.into()))
    }

    /// Whether the bridge is there and up.
    pub(super) async fn check_bridge(&self) -> Result<(), DeviceError> {
        match self.find_bridge().await? {
            (_, true) => Ok(()),
            (_, false) => Err(DeviceError::BridgeDown(self.bridge.clone())),
        }
    }

    /// Its index, and whether it is up.
    async fn find_bridge(&self) -> Result<(u32, bool), DeviceError> {
        let message = self.get(&self.bridge).await?.ok_or_else(|| DeviceError::NoBridge(self.bridge.clone()))?;
        Ok((message.header.index, message.header.flags.contains(LinkFlags::Up)))
    }

    async fn find(&self, name: &str) -> Result<Option<(u32, State)>, DeviceError> {
        let message = self.get(name).await?;
        Ok(message.map(|message| {
            let state = message.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::OperState(state) => Some(*state),
                _ => None,
            });
            (message.header.index, state.unwrap_or(State::Down))
        }))
    }

    async fn get(&self, name: &str) -> Result<Option<rtnetlink::packet_route::link::LinkMessage>, DeviceError> {
        let found = self.handle.link().get().match_name(name).execute().try_next().await;
        match found {
            Err(rtnetlink::Error::NetlinkError(error)) if is_no_device(&error) => Ok(None),
            result => result.map_err(|source| DeviceError::Refused { device: name.into(), doing: "looked at", source }),
        }
    }

    async fn set(
        &self,
        name: &str,
        doing: &'static str,
        settings: LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), DeviceError> {
        let refused = |source| DeviceError::Refused { device: name.into(), doing, source };
        self.handle.link().set(settings.build()).execute().await.map_err(refused)
    }
}

fn is_no_device(error: &rtnetlink::packet_core::ErrorMessage) -> bool {
    error.to_io().raw_os_error() == Some(nix::errno::Errno::ENODEV as i32)
}

/// The kernel removes a killed worker's device a moment after the worker.
async fn open_tap(name: &str, mtu: u16) -> Result<Tap, DeviceError> {
    let deadline = Instant::now() + BUSY_LIMIT;
    let options = TapOptions { name: name.into(), mtu };
    loop {
        match Tap::open(&options) {
            Err(TapError::Open { source, .. })
                if source.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32) && Instant::now() < deadline =>
            {
                tokio::time::sleep(BUSY_STEP).await;
            }
            result => return Ok(result?),
        }
    }
}
