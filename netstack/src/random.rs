//! The stack's own random numbers: seeded, part of its state, and no secret.

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Ports of the dynamic range (RFC 6335), each once, from a random one on.
    pub(crate) fn ports(&mut self) -> impl Iterator<Item = u16> + use<> {
        const FIRST: u64 = 49_152;
        const COUNT: u64 = 65_536 - FIRST;
        let start = self.next() % COUNT;
        (0..COUNT).map(move |step| (FIRST + (start + step) % COUNT) as u16)
    }
}
