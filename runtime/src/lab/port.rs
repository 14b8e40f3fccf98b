//! A device whose frames a test writes and reads itself: a TAP.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::{LabError, Missing, Namespace};

/// The longest frame a [`Port`] gives: Ethernet header, tag and the largest MTU a lab uses.
const FRAME_BYTES_MAX: usize = 14 + 4 + 9000;

/// A TAP device held open. What is sent enters the namespace's network as if it came off a wire; what the network
/// sends to the device is received. The device goes with the value.
pub struct Port {
    device: SyncDevice,
    name: String,
}

impl Port {
    /// A new TAP of that name in that namespace, down.
    pub(super) fn open(namespace: &Namespace, name: &str) -> Result<Self, LabError> {
        let build = || {
            let device = DeviceBuilder::new().name(name).layer(Layer::L2).inherit_enable_state().build_sync()?;
            device.set_nonblocking(true)?;
            io::Result::Ok(device)
        };
        let device = namespace.run(build)?.map_err(|source| Missing::Tap { source })?;
        Ok(Self { device, name: name.into() })
    }

    /// Sends one Ethernet frame (no checksum at its end). The kernel takes nothing below 14 bytes.
    pub fn send(&self, frame: &[u8]) -> Result<(), LabError> {
        match self.device.send(frame) {
            Ok(_) => Ok(()),
            Err(error) => Err(LabError::io(format!("sending {} bytes on {}", frame.len(), self.name))(error)),
        }
    }

    /// The next frame, or `None` when there is none within `limit`.
    pub fn receive(&self, limit: Duration) -> Result<Option<Vec<u8>>, LabError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(frame) = self.try_receive()? {
                return Ok(Some(frame));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let timeout = PollTimeout::try_from(left.max(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, timeout).map_err(|errno| LabError::io("waiting for a frame")(errno.into()))?;
        }
    }

    /// A frame that is there already.
    pub(super) fn try_receive(&self) -> Result<Option<Vec<u8>>, LabError> {
        let mut frame = vec![0; FRAME_BYTES_MAX];
        match self.device.recv(&mut frame) {
            Ok(length) => {
                frame.truncate(length);
                Ok(Some(frame))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(LabError::io(format!("receiving on {}", self.name))(error)),
        }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Port({}, fd {})", self.name, self.device.as_raw_fd())
    }
}
