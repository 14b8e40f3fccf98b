//! What requests carry, so that a reply tells which request it answers and whether a single bit changed.
//!
//! All content follows from (seed, connection, sequence number); nothing of it is remembered. An echo payload is
//!
//! ```text
//! 0        8        16
//! | number |  tag   | body: word i is tag + i * GOLDEN, cut at the payload's end
//! ```
//!
//! little-endian, where `tag` is a hash of seed, connection and number: a reply from another connection, another
//! run or with a flipped bit in its first 16 bytes does not pass for a request of ours.

/// Number and tag.
pub const HEADER_BYTES: usize = 16;

/// 2^64 divided by the golden ratio: the odd constant of SplitMix64 and of Fibonacci hashing.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A well-mixed word: the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
pub fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// The secret of one connection of one run.
pub fn key(seed: u64, connection: usize) -> u64 {
    mix(mix(seed).wrapping_add((connection as u64).wrapping_mul(GOLDEN)))
}

/// What a reply turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The reply to that request, unchanged.
    Intact(u64),
    /// The reply to that request, with other content than it should have.
    Damaged(u64),
    /// Nothing that says which request it answers.
    Unknown,
}

/// Writes the payload of request `number` over all of `payload` (at least [`HEADER_BYTES`]).
pub fn write(payload: &mut [u8], key: u64, number: u64) {
    let tag = mix(key ^ mix(number));
    payload[..8].copy_from_slice(&number.to_le_bytes());
    payload[8..HEADER_BYTES].copy_from_slice(&tag.to_le_bytes());
    let (words, rest) = payload[HEADER_BYTES..].as_chunks_mut::<8>();
    let mut word = tag;
    for bytes in words {
        word = word.wrapping_add(GOLDEN);
        *bytes = word.to_le_bytes();
    }
    let last = word.wrapping_add(GOLDEN).to_le_bytes();
    rest.copy_from_slice(&last[..rest.len()]);
}

/// Checks a reply that should be `payload_bytes` long.
pub fn check(reply: &[u8], key: u64, payload_bytes: usize) -> Check {
    let Some((header, body)) = reply.split_first_chunk::<HEADER_BYTES>() else { return Check::Unknown };
    let (number, tag) = header.split_at(8);
    let number = u64::from_le_bytes(number.try_into().expect("the first half of 16 bytes"));
    let tag = u64::from_le_bytes(tag.try_into().expect("the second half of 16 bytes"));
    if tag != mix(key ^ mix(number)) {
        return Check::Unknown;
    }
    let (words, rest) = body.as_chunks::<8>();
    let mut word = tag;
    let mut difference = 0;
    for bytes in words {
        word = word.wrapping_add(GOLDEN);
        difference |= u64::from_le_bytes(*bytes) ^ word;
    }
    let last = word.wrapping_add(GOLDEN).to_le_bytes();
    if difference == 0 && *rest == last[..rest.len()] && reply.len() == payload_bytes {
        Check::Intact(number)
    } else {
        Check::Damaged(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_intact(seed: u64, connection in 0_usize..4096, number: u64, size in 16_usize..200) {
            let key = key(seed, connection);
            let mut payload = vec![0; size];
            write(&mut payload, key, number);
            prop_assert_eq!(check(&payload, key, size), Check::Intact(number));
        }

        #[test]
        fn any_flipped_bit_is_seen(number in 0_u64..1000, size in 16_usize..100, place in 0_usize..800) {
            let key = key(7, 3);
            let mut payload = vec![0; size];
            write(&mut payload, key, number);
            let bit = place % (size * 8);
            payload[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit / 8 < HEADER_BYTES { Check::Unknown } else { Check::Damaged(number) };
            prop_assert_eq!(check(&payload, key, size), expected);
        }
    }

    #[test]
    fn a_neighbours_reply_is_not_ours() {
        let mut payload = [0; 32];
        write(&mut payload, key(1, 0), 5);
        assert_eq!(check(&payload, key(1, 1), 32), Check::Unknown);
        assert_eq!(check(&payload, key(2, 0), 32), Check::Unknown);
    }

    #[test]
    fn a_cut_or_stretched_reply_is_damaged() {
        let mut payload = [0; 32];
        write(&mut payload, key(1, 0), 5);
        assert_eq!(check(&payload[..31], key(1, 0), 32), Check::Damaged(5));
        assert_eq!(check(&payload[..15], key(1, 0), 32), Check::Unknown);
        assert_eq!(check(&payload, key(1, 0), 31), Check::Damaged(5));
    }
}
