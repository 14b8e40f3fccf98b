//! Bytes whose value follows from their offset, so that a stream can be checked wherever one starts to read.

/// 2^64 divided by the golden ratio: Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, 6.4).
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The echo guest's chargen repeats the first so many bytes of the stream: a prime, so that data lost or doubled in any
/// usual unit shows there too.
pub const CHARGEN_PERIOD_BYTES: usize = 65_521;

/// The byte at `offset` of the pattern stream: the top byte of the offset's Fibonacci hash.
///
/// Neighbours differ, no power of two is a period, so a byte that was lost, doubled or moved shows.
pub const fn pattern(offset: u64) -> u8 {
    (offset.wrapping_mul(GOLDEN) >> 56) as u8
}

/// Fills `bytes` with the stream from `offset` on.
pub fn fill(bytes: &mut [u8], offset: u64) {
    let mut hash = offset.wrapping_mul(GOLDEN);
    for byte in bytes {
        *byte = (hash >> 56) as u8;
        hash = hash.wrapping_add(GOLDEN);
    }
}

/// How many leading bytes of `bytes` are the stream from `offset` on: `bytes.len()` when all are right.
pub fn matching(bytes: &[u8], offset: u64) -> usize {
    let mut hash = offset.wrapping_mul(GOLDEN);
    for (index, byte) in bytes.iter().enumerate() {
        if *byte != (hash >> 56) as u8 {
            return index;
        }
        hash = hash.wrapping_add(GOLDEN);
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_fixed() {
        let first: [u8; 8] = core::array::from_fn(|n| pattern(n as u64));
        assert_eq!(first, [0x00, 0x9e, 0x3c, 0xda, 0x78, 0x17, 0xb5, 0x53]);
    }

    #[test]
    fn filling_agrees_with_the_function() {
        for offset in [0, 1, 255, 1 << 20, u64::MAX - 10] {
            let mut bytes = [0; 64];
            fill(&mut bytes, offset);
            for (index, byte) in bytes.iter().enumerate() {
                assert_eq!(*byte, pattern(offset.wrapping_add(index as u64)));
            }
        }
    }

    #[test]
    fn a_wrong_byte_is_found() {
        let mut bytes = [0; 32];
        fill(&mut bytes, 77);
        assert_eq!(matching(&bytes, 77), 32);
        bytes[9] ^= 1;
        assert_eq!(matching(&bytes, 77), 9);
        assert!(matching(&bytes, 78) < 9);
    }
}
