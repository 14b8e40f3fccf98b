//! The host is the guest's offloading NIC: the netstack leaves IPv4, TCP and UDP checksums out and may hand over a TCP
//! frame of many segments; here each frame gets its virtio-net header, so that the kernel does the rest (or nobody,
//! where a frame never leaves the machine).
//!
//! Followed: virtio 1.2, 5.1.6 (`struct virtio_net_hdr`); RFC 791, 8200, 9293, 768, 1071. A checksum left to the kernel
//! stands in its field as the folded sum of the pseudo-header, not complemented.

/// Size of the virtio-net header without `num_buffers`, a TAP's default.
pub(super) const HEADER_BYTES: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;

const ETHERNET_BYTES: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const IPV4_BYTES_MIN: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
const TCP_BYTES_MIN: usize = 20;
const TCP_BYTES_MAX: usize = 60;
const TCP_SEQUENCE_AT: usize = 4;
const TCP_OFFSET_AT: usize = 12;
const TCP_FLAGS_AT: usize = 13;
const TCP_ACK: u8 = 0x10;
const TCP_ACK_PSH: u8 = 0x18;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

/// A virtio-net header, in the byte order of this machine as the kernel has it by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    flags: u8,
    gso_type: u8,
    header_bytes: u16,
    segment_bytes: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

impl Header {
    pub(super) fn from_bytes(bytes: [u8; HEADER_BYTES]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = bytes;
        Self {
            flags,
            gso_type,
            header_bytes: u16::from_ne_bytes([a, b]),
            segment_bytes: u16::from_ne_bytes([c, d]),
            checksum_start: u16::from_ne_bytes([e, f]),
            checksum_offset: u16::from_ne_bytes([g, h]),
        }
    }

    /// Whether the frame behind this header is many datagrams.
    pub(super) fn is_udp_run(self) -> bool {
        self.gso_type == GSO_UDP_L4
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let [a, b] = self.header_bytes.to_ne_bytes();
        let [c, d] = self.segment_bytes.to_ne_bytes();
        let [e, f] = self.checksum_start.to_ne_bytes();
        let [g, h] = self.checksum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }
}

/// Where the parts of an IP frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layers {
    ipv6: bool,
    fragment: bool,
    protocol: u8,
    /// Offset of the transport header.
    transport: usize,
    /// Offset of the end of the IP packet (Ethernet may pad behind it).
    end: usize,
}

impl Layers {
    /// `None` for what is not IPv4 or IPv6 or is cut short. IPv6 extension headers count as an unknown transport.
    fn of(frame: &[u8]) -> Option<Self> {
        match be16(frame, 12)? {
            ETHERTYPE_IPV4 => Self::of_ipv4(frame),
            ETHERTYPE_IPV6 => {
                let end = ETHERNET_BYTES + IPV6_BYTES + usize::from(be16(frame, ETHERNET_BYTES + 4)?);
                let protocol = *frame.get(ETHERNET_BYTES + 6)?;
                let transport = ETHERNET_BYTES + IPV6_BYTES;
                (end <= frame.len()).then_some(Self { ipv6: true, fragment: false, protocol, transport, end })
            }
            _ => None,
        }
    }

    fn of_ipv4(frame: &[u8]) -> Option<Self> {
        let header_bytes = usize::from(frame.get(ETHERNET_BYTES)? & 0x0f) * 4;
        let end = ETHERNET_BYTES + usize::from(be16(frame, ETHERNET_BYTES + 2)?);
        let fragment = be16(frame, ETHERNET_BYTES + 6)? & 0x3fff != 0;
        let protocol = *frame.get(ETHERNET_BYTES + 9)?;
        let transport = ETHERNET_BYTES + header_bytes;
        let whole = header_bytes >= IPV4_BYTES_MIN && transport <= end && end <= frame.len();
        whole.then_some(Self { ipv6: false, fragment, protocol, transport, end })
    }

    /// Offset of the checksum in the transport header, for the protocols whose checksum is ours.
    fn checksum_offset(&self) -> Option<usize> {
        let (offset, header_bytes) = match self.protocol {
            PROTOCOL_TCP => (16, TCP_BYTES_MIN),
            PROTOCOL_UDP => (6, UDP_BYTES),
            _ => return None,
        };
        (!self.fragment && self.transport + header_bytes <= self.end).then_some(offset)
    }

    /// Sum of the pseudo-header for a transport packet of `bytes` bytes.
    fn pseudo_header(&self, frame: &[u8], bytes: usize) -> u32 {
        let addresses = if self.ipv6 { 8..40 } else { 12..20 };
        let addresses = &frame[ETHERNET_BYTES + addresses.start..ETHERNET_BYTES + addresses.end];
        let length = (bytes >> 16) as u32 + (bytes & 0xffff) as u32;
        sum(addresses) + length + u32::from(self.protocol)
    }
}

/// Whether a received frame may go to the guest: its IPv4, TCP and UDP checksums are right, or the kernel vouches for
/// the transport's. What is not IP passes: the netstack checks what it understands.
pub(super) fn verify(header: Header, frame: &[u8]) -> bool {
    let Some(layers) = Layers::of(frame) else { return true };
    if !layers.ipv6 && fold(sum(&frame[ETHERNET_BYTES..layers.transport])) != 0xffff {
        return false;
    }
    if header.flags & (NEEDS_CSUM | DATA_VALID) != 0 {
        return true;
    }
    let Some(offset) = layers.checksum_offset() else { return true };
    let packet = &frame[layers.transport..layers.end];
    if layers.protocol == PROTOCOL_UDP && !layers.ipv6 && be16(packet, offset) == Some(0) {
        return true;
    }
    fold(layers.pseudo_header(frame, packet.len()) + sum(packet)) == 0xffff
}

/// Fills in what the netstack left out of a frame to send, and says what the kernel is to do with it.
pub(super) fn prepare(frame: &mut [u8], segment_bytes: u16) -> Header {
    let Some(layers) = Layers::of(frame) else { return Header::default() };
    let mut header = fill_checksums(frame, layers);
    if header.flags == NEEDS_CSUM && segment_bytes != 0 && layers.protocol == PROTOCOL_TCP {
        let tcp_bytes = usize::from(frame[layers.transport + 12] >> 4) * 4;
        header.gso_type = if layers.ipv6 { GSO_TCPV6 } else { GSO_TCPV4 };
        header.header_bytes = (layers.transport + tcp_bytes) as u16;
        header.segment_bytes = segment_bytes;
    }
    header
}

/// Fills in the IPv4 checksum, and the pseudo-header's sum where the kernel is to do the transport's: then says so.
fn fill_checksums(headers: &mut [u8], layers: Layers) -> Header {
    if !layers.ipv6 {
        fill_ipv4_checksum(&mut headers[ETHERNET_BYTES..layers.transport]);
    }
    let Some(offset) = layers.checksum_offset() else { return Header::default() };
    let partial = fold(layers.pseudo_header(headers, layers.end - layers.transport));
    headers[layers.transport + offset..][..2].copy_from_slice(&partial.to_be_bytes());
    Header {
        flags: NEEDS_CSUM,
        gso_type: GSO_NONE,
        checksum_start: layers.transport as u16,
        checksum_offset: offset as u16,
        ..Header::default()
    }
}

fn fill_ipv4_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let checksum = !fold(sum(header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Longest header chain of a run: Ethernet, IPv6, TCP with all its options.
const HEADERS_BYTES_MAX: usize = ETHERNET_BYTES + IPV6_BYTES + TCP_BYTES_MAX;
/// Packets in one large frame: the kernel's `UDP_MAX_SEGMENTS` was 64 before Linux 6.9.
pub(super) const RUN_PACKETS_MAX: usize = 64;
/// Payload of a large frame. The frame stays below Linux's `GSO_LEGACY_MAX_SIZE` (65,536), from which on a device's own
/// segmentation is not used and the kernel cuts in software.
const RUN_BYTES_MAX: usize = 65_535 - HEADERS_BYTES_MAX;

/// Consecutive packets of one UDP flow or TCP connection as one large frame that the kernel cuts again (segmentation
/// offload): one system call and one walk through the bridge for up to [`RUN_PACKETS_MAX`] packets.
///
/// All but the last have the same size, as the kernel demands. Of TCP only plain data segments are taken, each with
/// the sequence number that follows: smoltcp makes large frames itself over IPv4, but not over IPv6.
pub(super) struct Run {
    layers: Layers,
    headers: [u8; HEADERS_BYTES_MAX],
    headers_bytes: usize,
    packet_bytes: usize,
    bytes: usize,
    packets: usize,
    closed: bool,
}

impl Run {
    /// Begins a run with this frame, if it has a payload that can be joined. Returns the payload's range.
    pub(super) fn begin(frame: &[u8]) -> Option<(Self, std::ops::Range<usize>)> {
        let layers = Layers::of(frame)?;
        layers.checksum_offset()?;
        let transport_bytes = match layers.protocol {
            PROTOCOL_UDP => UDP_BYTES,
            _ => Some(usize::from(frame[layers.transport + TCP_OFFSET_AT] >> 4) * 4).filter(|n| *n >= TCP_BYTES_MIN)?,
        };
        let headers_bytes = layers.transport + transport_bytes;
        if headers_bytes >= layers.end || headers_bytes > HEADERS_BYTES_MAX {
            return None;
        }
        let packet_bytes = layers.end - headers_bytes;
        let mut headers = [0; HEADERS_BYTES_MAX];
        headers[..headers_bytes].copy_from_slice(&frame[..headers_bytes]);
        let closed = layers.protocol == PROTOCOL_TCP && Self::tcp_closes(frame, layers)?;
        let run = Self { layers, headers, headers_bytes, packet_bytes, bytes: packet_bytes, packets: 1, closed };
        Some((run, headers_bytes..layers.end))
    }

    /// Adds the next frame if it belongs to the same flow and fits. Returns the payload's range.
    pub(super) fn add(&mut self, frame: &[u8]) -> Option<std::ops::Range<usize>> {
        let layers = Layers::of(frame)?;
        let same = (layers.ipv6, layers.protocol, layers.transport, layers.fragment)
            == (self.layers.ipv6, self.layers.protocol, self.layers.transport, false);
        let payload = self.headers_bytes..layers.end;
        if self.closed || self.packets == RUN_PACKETS_MAX || !same || payload.is_empty() {
            return None;
        }
        if payload.len() > self.packet_bytes || self.bytes + payload.len() > RUN_BYTES_MAX || !self.same_flow(frame) {
            return None;
        }
        self.closed = payload.len() < self.packet_bytes;
        if layers.protocol == PROTOCOL_TCP {
            self.closed |= Self::tcp_closes(frame, layers)?;
            // The kernel gives PSH to the last segment only.
            self.headers[layers.transport + TCP_FLAGS_AT] = frame[layers.transport + TCP_FLAGS_AT];
        }
        self.bytes += payload.len();
        self.packets += 1;
        Some(payload)
    }

    /// Everything but lengths, checksums and the IPv4 identification must be equal, and TCP data must follow.
    fn same_flow(&self, frame: &[u8]) -> bool {
        let (ip, transport) = (ETHERNET_BYTES, self.layers.transport);
        let equal = |range: std::ops::Range<usize>| frame.get(range.clone()) == self.headers.get(range);
        let network = if self.layers.ipv6 {
            equal(0..ip + 4) && equal(ip + 6..ip + IPV6_BYTES)
        } else {
            equal(0..ip + 2) && equal(ip + 6..ip + 10) && equal(ip + 12..transport)
        };
        let ports = equal(transport..transport + 4);
        if self.layers.protocol == PROTOCOL_UDP {
            return network && ports;
        }
        // Acknowledgement and header length, window, urgent pointer and options.
        let control = equal(transport + 8..transport + TCP_FLAGS_AT)
            && equal(transport + 14..transport + 16)
            && equal(transport + 18..self.headers_bytes);
        let next = be32(&self.headers, transport + TCP_SEQUENCE_AT).map(|first| first.wrapping_add(self.bytes as u32));
        network && ports && control && be32(frame, transport + TCP_SEQUENCE_AT) == next
    }

    /// Whether nothing may follow this segment in a run; `None` for one that must leave by itself.
    fn tcp_closes(frame: &[u8], layers: Layers) -> Option<bool> {
        match frame[layers.transport + TCP_FLAGS_AT] {
            TCP_ACK => Some(false),
            TCP_ACK_PSH => Some(true),
            _ => None,
        }
    }

    /// Whether it is of UDP; else it is of TCP.
    pub(super) fn is_udp(&self) -> bool {
        self.layers.protocol == PROTOCOL_UDP
    }

    /// Whether there is anything to gain.
    pub(super) fn is_single(&self) -> bool {
        self.packets == 1
    }

    /// The virtio-net header and the headers of the large frame; the payloads follow.
    pub(super) fn finish(&mut self) -> (Header, &[u8]) {
        let transport = self.layers.transport;
        let transport_bytes = self.headers_bytes - transport + self.bytes;
        set_ip_length(&mut self.headers, self.layers.ipv6, transport, transport_bytes);
        if self.is_udp() {
            self.headers[transport + 4..][..2].copy_from_slice(&(transport_bytes as u16).to_be_bytes());
        }
        self.layers.end = transport + transport_bytes;
        let mut header = fill_checksums(&mut self.headers, self.layers);
        if !self.is_single() {
            header.gso_type = match (self.is_udp(), self.layers.ipv6) {
                (true, _) => GSO_UDP_L4,
                (false, true) => GSO_TCPV6,
                (false, false) => GSO_TCPV4,
            };
            header.header_bytes = self.headers_bytes as u16;
            header.segment_bytes = self.packet_bytes as u16;
        }
        (header, &self.headers[..self.headers_bytes])
    }
}

/// Cuts a large UDP frame that the kernel handed over whole (another guest, or a client with `UDP_SEGMENT`, sent it so)
/// into the datagrams it stands for. `None`: it is not one.
pub(super) fn split_udp(header: Header, frame: &[u8]) -> Option<impl Iterator<Item = SplitDatagram<'_>>> {
    let segment_bytes = usize::from(header.segment_bytes);
    if header.gso_type != GSO_UDP_L4 || segment_bytes == 0 {
        return None;
    }
    let (run, payload) = Run::begin(frame).filter(|(run, _)| run.is_udp())?;
    let headers = &frame[..run.headers_bytes];
    let ipv6 = run.layers.ipv6;
    Some(frame[payload].chunks(segment_bytes).map(move |payload| SplitDatagram { headers, ipv6, payload }))
}

/// One datagram of a large frame.
pub(super) struct SplitDatagram<'a> {
    headers: &'a [u8],
    ipv6: bool,
    payload: &'a [u8],
}

impl SplitDatagram<'_> {
    /// Length of its frame.
    pub(super) fn bytes(&self) -> usize {
        self.headers.len() + self.payload.len()
    }

    /// Writes its frame into `slot`, which has that length. Checksums are not filled in: nobody looks at them again.
    pub(super) fn write(&self, slot: &mut [u8]) {
        let (headers, payload) = slot.split_at_mut(self.headers.len());
        headers.copy_from_slice(self.headers);
        payload.copy_from_slice(self.payload);
        let udp_bytes = UDP_BYTES + self.payload.len();
        let transport = self.headers.len() - UDP_BYTES;
        set_ip_length(headers, self.ipv6, transport, udp_bytes);
        headers[transport + 4..][..2].copy_from_slice(&(udp_bytes as u16).to_be_bytes());
    }
}

/// Writes the length of an IP packet whose transport header begins at `transport`.
fn set_ip_length(headers: &mut [u8], ipv6: bool, transport: usize, transport_bytes: usize) {
    let (at, length) = if ipv6 { (4, transport_bytes) } else { (2, transport - ETHERNET_BYTES + transport_bytes) };
    headers[ETHERNET_BYTES + at..][..2].copy_from_slice(&(length as u16).to_be_bytes());
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// RFC 1071 sum of big-endian 16-bit words, an odd last byte padded with zero; at most 64 KiB.
fn sum(bytes: &[u8]) -> u32 {
    let (words, odd) = bytes.as_chunks::<2>();
    let words: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    words + odd.first().map_or(0, |byte| u32::from(*byte) << 8)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 UDP frame with all checksums zero, as the netstack leaves them.
    fn udp_frame(payload: &[u8], port: u16) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
        let total = (IPV4_BYTES_MIN + UDP_BYTES + payload.len()) as u16;
        frame.extend_from_slice(&[0x45, 0]);
        frame.extend_from_slice(&total.to_be_bytes());
        frame.extend_from_slice(&[0, 7, 0x40, 0, 64, PROTOCOL_UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend_from_slice(&7u16.to_be_bytes());
        frame.extend_from_slice(&port.to_be_bytes());
        frame.extend_from_slice(&((UDP_BYTES + payload.len()) as u16).to_be_bytes());
        frame.extend_from_slice(&[0, 0]);
        frame.extend_from_slice(payload);
        frame
    }

    /// What the kernel does with `NEEDS_CSUM`.
    fn finish_checksum(header: Header, frame: &mut [u8]) {
        let start = usize::from(header.checksum_start);
        let checksum = !fold(sum(&frame[start..]));
        frame[start + usize::from(header.checksum_offset)..][..2].copy_from_slice(&checksum.to_be_bytes());
    }

    #[test]
    fn what_is_prepared_verifies_and_what_is_damaged_does_not() {
        let mut frame = udp_frame(b"twelve bytes", 9);
        let header = prepare(&mut frame, 0);
        finish_checksum(header, &mut frame);
        assert!(verify(Header::default(), &frame));
        for at in ETHERNET_BYTES + 1..frame.len() {
            let mut damaged = frame.clone();
            damaged[at] ^= 0x10;
            // Damage to the length or protocol can leave nothing to check; the netstack's own checks see to that.
            if Layers::of(&damaged).is_some_and(|layers| layers.checksum_offset().is_some()) {
                assert!(!verify(Header::default(), &damaged), "byte {at}");
            }
        }
    }

    #[test]
    fn the_kernel_vouches_for_the_transport_but_not_for_the_header() {
        let mut frame = udp_frame(b"x", 9);
        let header = prepare(&mut frame, 0);
        assert!(verify(header, &frame));
        frame[ETHERNET_BYTES + 8] ^= 1;
        assert!(!verify(header, &frame));
    }

    #[test]
    fn a_run_is_cut_back_into_its_datagrams() {
        let frames: Vec<_> = [&b"aaaa"[..], b"bbbb", b"cc"].map(|payload| udp_frame(payload, 9)).into();
        let (mut run, first) = Run::begin(&frames[0]).expect("a datagram");
        let mut payloads = vec![&frames[0][first]];
        for frame in &frames[1..] {
            payloads.push(&frame[run.add(frame).expect("the same flow")]);
        }
        assert_eq!(run.add(&frames[0]), None, "a short datagram ends the run");
        let (header, headers) = run.finish();
        assert_eq!((header.gso_type, header.segment_bytes), (GSO_UDP_L4, 4));
        let mut large = headers.to_vec();
        payloads.iter().for_each(|payload| large.extend_from_slice(payload));
        let layers = Layers::of(&large).expect("a frame");
        assert_eq!((layers.end, &large[42..]), (large.len(), &b"aaaabbbbcc"[..]));
        finish_checksum(header, &mut large);
        assert!(verify(Header::default(), &large));
        let split: Vec<_> = split_udp(header, &large).expect("a large frame").collect();
        for (datagram, frame) in split.iter().zip(&frames) {
            let mut slot = vec![0; datagram.bytes()];
            datagram.write(&mut slot);
            assert_eq!(
                (&slot[14..18], &slot[34..]),
                (&frame[14..18], &[&frame[34..40], &slot[40..42], &frame[42..]].concat()[..])
            );
        }
    }

    #[test]
    fn only_one_flow_makes_a_run() {
        let (mut run, _) = Run::begin(&udp_frame(b"aaaa", 9)).expect("a datagram");
        assert_eq!(run.add(&udp_frame(b"bbbb", 10)), None);
        assert_eq!(run.add(&udp_frame(b"too long", 9)), None);
        assert_eq!(run.add(&udp_frame(b"", 9)), None);
        assert_eq!(run.add(b"garbage"), None);
        assert!(run.is_single());
        assert!(Run::begin(&udp_frame(b"", 9)).is_none());
    }

    /// An IPv6 TCP data segment as the netstack leaves it.
    fn tcp_frame(sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
        frame.extend_from_slice(&[0x60, 0, 0, 0]);
        frame.extend_from_slice(&((TCP_BYTES_MIN + payload.len()) as u16).to_be_bytes());
        frame.extend_from_slice(&[PROTOCOL_TCP, 64]);
        frame.extend_from_slice(&[0xfd; 32]);
        frame.extend_from_slice(&[0, 19, 0x80, 1]);
        frame.extend_from_slice(&sequence.to_be_bytes());
        frame.extend_from_slice(&[1, 2, 3, 4, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn segments_that_follow_each_other_make_a_run() {
        let first = u32::MAX - 3;
        let frames = [
            tcp_frame(first, TCP_ACK, b"aaaa"),
            tcp_frame(0, TCP_ACK, b"bbbb"),
            tcp_frame(4, TCP_ACK_PSH, b"cc"),
            tcp_frame(6, TCP_ACK, b"dd"),
        ];
        let (mut run, payload) = Run::begin(&frames[0]).expect("data");
        assert_eq!(&frames[0][payload], b"aaaa");
        assert_eq!(run.add(&frames[2]), None, "a segment is missing");
        assert_eq!(&frames[1][run.add(&frames[1]).expect("it follows")], b"bbbb");
        assert_eq!(&frames[2][run.add(&frames[2]).expect("it follows")], b"cc");
        assert_eq!(run.add(&frames[3]), None, "PSH ends a run");
        let (header, headers) = run.finish();
        assert_eq!((header.gso_type, header.segment_bytes), (GSO_TCPV6, 4));
        assert_eq!(usize::from(header.header_bytes), headers.len());
        let mut large = headers.to_vec();
        large.extend_from_slice(b"aaaabbbbcc");
        assert_eq!(be32(&large, 58), Some(first));
        assert_eq!(large[ETHERNET_BYTES + IPV6_BYTES + TCP_FLAGS_AT], TCP_ACK_PSH);
        finish_checksum(header, &mut large);
        assert!(verify(Header::default(), &large));
    }

    #[test]
    fn segments_that_say_more_than_data_leave_by_themselves() {
        let (mut run, _) = Run::begin(&tcp_frame(0, TCP_ACK, b"aaaa")).expect("data");
        for flags in [0x11, 0x12, 0x14, 0x30, 0] {
            assert!(Run::begin(&tcp_frame(0, flags, b"aaaa")).is_none(), "flags {flags:x}");
            assert_eq!(run.add(&tcp_frame(4, flags, b"bbbb")), None, "flags {flags:x}");
        }
        let mut other_window = tcp_frame(4, TCP_ACK, b"bbbb");
        other_window[ETHERNET_BYTES + IPV6_BYTES + 14] ^= 1;
        assert_eq!(run.add(&other_window), None);
        assert!(Run::begin(&tcp_frame(0, TCP_ACK, b"")).is_none());
        assert!(run.is_single());
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(mut frame: Vec<u8>, segment_bytes: u16, flags: u8) {
            if frame.len() > 16 {
                (frame[12], frame[13]) = if frame[15] & 1 == 0 { (0x08, 0x00) } else { (0x86, 0xdd) };
            }
            verify(Header { flags, ..Header::default() }, &frame);
            if let Some((mut run, _)) = Run::begin(&frame) {
                run.add(&frame);
                run.finish();
            }
            let header = Header { gso_type: GSO_UDP_L4, segment_bytes, ..Header::default() };
            for datagram in split_udp(header, &frame).into_iter().flatten() {
                datagram.write(&mut vec![0; datagram.bytes()]);
            }
            prepare(&mut frame, segment_bytes);
        }
    }
}
