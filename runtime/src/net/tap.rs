//! A TAP device: Ethernet frames from and to the kernel, each behind a virtio-net header.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::uio::{readv, writev};
use tun_rs::{DeviceBuilder, Layer};

use super::offload::{HEADER_BYTES, Header};

/// How a TAP is opened.
#[derive(Clone, Debug)]
pub struct TapOptions {
    /// Device name, at most 15 bytes. Made if there is none; it then goes when the process ends.
    pub name: String,
    /// IP MTU, bytes.
    pub mtu: u16,
}

/// Why a TAP cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Opening or configuring it failed.
    #[error("the TAP device {name} cannot be opened: {}", hint(.source))]
    Open {
        /// Its name.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Reading or writing failed: the device is gone or down.
    #[error("the TAP device failed while {doing}")]
    Io {
        /// reading or writing.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: Errno,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => {
            "it takes CAP_NET_ADMIN in this network namespace and access to /dev/net/tun (run as root, or under `unshare -Urn`)"
        }
        Some(Errno::ENOENT | Errno::ENODEV) => "this kernel has no /dev/net/tun (`modprobe tun`)",
        Some(Errno::EBUSY) => "another process has it open",
        _ => "see the cause",
    }
}

/// An open TAP device, non-blocking, with checksum and segmentation offload.
///
/// The device is there while the descriptor, or a duplicate in another process, is open; then the kernel removes it,
/// unless it was made to stay.
pub struct Tap {
    device: OwnedFd,
    segments_udp: bool,
}

impl Tap {
    /// Opens the device, makes it if need be, and sets it up.
    pub fn open(options: &TapOptions) -> Result<Self, TapError> {
        let failed = |source| TapError::Open { name: options.name.clone(), source };
        let builder = DeviceBuilder::new().name(&options.name).layer(Layer::L2).offload(true).mtu(options.mtu);
        let device = builder.build_sync().map_err(failed)?;
        device.set_nonblocking(true).map_err(failed)?;
        let segments_udp = device.udp_gso();
        Ok(Self { device: device.as_fd().try_clone_to_owned().map_err(failed)?, segments_udp })
    }

    /// A device that another process opened, set up and handed over.
    pub fn from_fd(device: OwnedFd, segments_udp: bool) -> Self {
        Self { device, segments_udp }
    }

    /// Whether the kernel cuts large UDP frames into datagrams for us (Linux 6.2 on).
    pub fn segments_udp(&self) -> bool {
        self.segments_udp
    }

    /// Reads one frame into `frame`; its length without the header, or `None` if none is waiting.
    pub(super) fn read(&self, frame: &mut [u8]) -> Result<Option<(Header, usize)>, TapError> {
        let mut header = [0; HEADER_BYTES];
        let result = readv(&self.device, &mut [IoSliceMut::new(&mut header), IoSliceMut::new(frame)]);
        match result {
            Ok(len) => Ok(Some((Header::from_bytes(header), len.saturating_sub(HEADER_BYTES)))),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(source) => Err(TapError::Io { doing: "reading", source }),
        }
    }

    /// Writes one frame given in parts, of which the first is its virtio-net header. `false`: the kernel did not take
    /// it (no memory, a malformed frame, or the device is down), as a network may.
    pub(super) fn write(&self, parts: &[IoSlice<'_>]) -> Result<bool, TapError> {
        match writev(&self.device, parts) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS | Errno::ENOMEM | Errno::EINVAL | Errno::EIO) => {
                Ok(false)
            }
            Err(source) => Err(TapError::Io { doing: "writing", source }),
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}
