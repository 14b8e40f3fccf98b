//! The rings as smoltcp's IP device.

use alloc::vec;
use core::num::NonZeroUsize;

use smoltcp::{
    phy::{self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium, PacketMeta},
    time::Instant,
};

use crate::{
    Config, Stats,
    link::{Link, Verdict},
    packet::{self, ETHERNET_BYTES},
    ring::Ring,
    sequence::Sequence,
};

/// The largest IP packet the host cuts into segments: the frame stays below Linux's `GSO_LEGACY_MAX_SIZE` (65,536), from
/// which on a device's own segmentation is not used and the kernel cuts in software.
const SEGMENTED_BYTES_MAX: usize = 65_535 - ETHERNET_BYTES;

/// What one poll writes to.
#[derive(Debug)]
pub(crate) struct Output<'r> {
    pub(crate) ring: Ring<'r>,
    pub(crate) now_ns: i64,
    /// Something found no space in the ring.
    pub(crate) full: bool,
    /// A fragment left that is not its packet's last.
    pub(crate) fragmenting: bool,
}

/// One received packet at most, and the way out.
pub(crate) struct Device<'d, 'r> {
    pub(crate) received: Option<&'d [u8]>,
    pub(crate) out: &'d mut Output<'r>,
    pub(crate) link: &'d mut Link,
    pub(crate) stats: &'d mut Stats,
    pub(crate) capabilities: &'d DeviceCapabilities,
    /// Of the connection whose socket smoltcp works on.
    pub(crate) sequence: Option<&'d mut Sequence>,
}

/// A device that receives nothing, and loses what it is given: for what smoltcp does only as it sends.
pub(crate) struct Nowhere<'d>(pub(crate) &'d DeviceCapabilities);

/// What smoltcp may expect of the device.
pub(crate) fn capabilities(config: &Config) -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = config.mtu.into();
    if !config.checksums {
        // ICMP is rare and no offload covers it, so its checksums are always dealt with here.
        let mut checksum = ChecksumCapabilities::default();
        (checksum.ipv4, checksum.udp, checksum.tcp) = (Checksum::None, Checksum::None, Checksum::None);
        capabilities.checksum = checksum;
    }
    if config.segmentation {
        // smoltcp 0.14 drops IPv6 packets above the MTU, segmented or not, so they are never offered.
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(SEGMENTED_BYTES_MAX);
    }
    capabilities
}

impl Device<'_, '_> {
    /// The largest packet that may be sent through one token.
    fn packet_bytes_max(&self) -> usize {
        match self.capabilities.segmentation.tcpv4 {
            Some(bytes) => bytes.get(),
            None => self.capabilities.max_transmission_unit,
        }
    }
}

impl<'r> phy::Device for Device<'_, 'r> {
    type RxToken<'a>
        = Received<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Sending<'a, 'r>
    where
        Self: 'a;

    fn receive(&mut self, _now: Instant) -> Option<(Received<'_>, Sending<'_, 'r>)> {
        let packet = self.received.take()?;
        let sending = Sending {
            out: self.out,
            link: self.link,
            stats: self.stats,
            sequence: self.sequence.as_deref_mut(),
            segment_bytes: 0,
        };
        Some((Received(packet), sending))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_, 'r>> {
        if !self.out.ring.has_space(ETHERNET_BYTES + self.packet_bytes_max()) {
            self.out.full = true;
            self.stats.tx_backpressure += 1;
            return None;
        }
        Some(Sending {
            out: self.out,
            link: self.link,
            stats: self.stats,
            sequence: self.sequence.as_deref_mut(),
            segment_bytes: 0,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

impl phy::Device for Nowhere<'_> {
    type RxToken<'a>
        = Received<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Lost
    where
        Self: 'a;

    fn receive(&mut self, _now: Instant) -> Option<(Received<'_>, Lost)> {
        None
    }

    fn transmit(&mut self, _now: Instant) -> Option<Lost> {
        Some(Lost)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.0.clone()
    }
}

/// The way to nowhere.
pub(crate) struct Lost;

impl phy::TxToken for Lost {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        write(&mut vec![0; len])
    }
}

/// The received packet.
pub(crate) struct Received<'a>(&'a [u8]);

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

/// Space for one packet to send.
pub(crate) struct Sending<'a, 'r> {
    out: &'a mut Output<'r>,
    link: &'a mut Link,
    stats: &'a mut Stats,
    sequence: Option<&'a mut Sequence>,
    segment_bytes: u16,
}

impl phy::TxToken for Sending<'_, '_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let now_ns = self.out.now_ns;
        let frame_bytes = ETHERNET_BYTES + len;
        let frame = self.out.ring.slot(frame_bytes).expect("a token is only made where the largest packet has space");
        let result = write(&mut frame[ETHERNET_BYTES..]);
        if let Some(sequence) = self.sequence {
            sequence.correct(&mut frame[ETHERNET_BYTES..]);
        }
        let fragmenting = packet::has_more_fragments(&frame[ETHERNET_BYTES..]);
        match self.link.address(frame, now_ns) {
            Verdict::Send => {
                self.out.ring.push(frame_bytes, self.segment_bytes);
                self.stats.tx_frames += 1;
                self.stats.tx_bytes += frame_bytes as u64;
            }
            Verdict::Hold(hop) => self.link.hold(hop, frame.to_vec(), self.segment_bytes, now_ns, self.stats),
            Verdict::Drop => self.stats.neighbor_unreachable += 1,
        }
        if fragmenting {
            self.out.fragmenting = true;
        }
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment_bytes = meta.segmentation_offload_size.map_or(0, |bytes| bytes.get());
    }
}
