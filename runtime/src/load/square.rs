//! The numbers of `udp-square`: as many digits as the payload is long, one per sequence number, found again from
//! the square in the reply.
use super::content::Check;

/// Numbers of a fixed count of digits, starting at a place given by the connection's key.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// The smallest number of that many digits.
    lowest: u64,
    /// How many numbers have that many digits.
    count: u64,
    /// Where sequence number 0 is among them.
    first: u64,
    digits: usize,
}

impl Numbers {
    /// Numbers of `digits` decimal digits, 2 to 19.
    pub fn new(digits: usize, key: u64) -> Self {
        assert!((2..=19).contains(&digits), "digits within 64 bits: {digits}");
        let lowest = 10_u64.pow(digits as u32 - 1);
        let count = 9 * lowest;
        Self { lowest, count, first: key % count, digits }
    }

    /// Writes the number of a request: exactly as many digits as the payload is long.
    pub fn write(&self, payload: &mut [u8], sequence: u64) {
        assert_eq!(payload.len(), self.digits, "the payload is one number");
        let place = (u128::from(self.first) + u128::from(sequence)) % u128::from(self.count);
        let mut number = self.lowest + place as u64;
        for digit in payload.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }

    /// Which request a reply answers: the one whose square it is.
    pub fn check(&self, reply: &[u8]) -> Check {
        let Some(square) = decimal(reply) else { return Check::Unknown };
        let root = square.isqrt();
        let in_range = u128::from(self.lowest)..u128::from(self.lowest) + u128::from(self.count);
        if root * root != square || !in_range.contains(&root) {
            return Check::Unknown;
        }
        let place = root as u64 - self.lowest;
        let behind = if place >= self.first { place - self.first } else { place + (self.count - self.first) };
        Check::Intact(behind)
    }
}

/// The longest reply that can be right: 19 digits squared.
pub const REPLY_BYTES_MAX: usize = 38;

/// A canonical decimal number: digits only, no leading zero.
fn decimal(text: &[u8]) -> Option<u128> {
    if text.is_empty() || text.len() > REPLY_BYTES_MAX || text[0] == b'0' || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Two halves: 64-bit arithmetic is several times faster than 128-bit.
    let word = |digits: &[u8]| digits.iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    let (high, low) = text.split_at(text.len().saturating_sub(19));
    Some(u128::from(word(high)) * 10_u128.pow(low.len() as u32) + u128::from(word(low)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn squares_lead_back(digits in 12_usize..=19, key: u64, sequence in 0_u64..1 << 36) {
            let numbers = Numbers::new(digits, key);
            let mut payload = vec![0; digits];
            numbers.write(&mut payload, sequence);
            let number: u128 = std::str::from_utf8(&payload).unwrap().parse().unwrap();
            prop_assert_eq!(number.to_string().len(), digits);
            let reply = (number * number).to_string();
            prop_assert_eq!(numbers.check(reply.as_bytes()), Check::Intact(sequence));
        }

        #[test]
        fn a_wrong_digit_is_seen(sequence in 0_u64..100_000, place in 0_usize..32, digit in 1_u8..10) {
            let numbers = Numbers::new(16, 99);
            let mut payload = [0; 16];
            numbers.write(&mut payload, sequence);
            let number: u128 = std::str::from_utf8(&payload).unwrap().parse().unwrap();
            let mut reply = (number * number).to_string().into_bytes();
            let place = place % reply.len();
            reply[place] = b'0' + (reply[place] - b'0' + digit) % 10;
            prop_assert_eq!(numbers.check(&reply), Check::Unknown);
        }
    }

    #[test]
    fn junk_is_not_a_square() {
        let numbers = Numbers::new(12, 0);
        let long = [b'1'; 100];
        for reply in [&b""[..], b"error: not a number", b"-4", b"0", b"4\n", b"16", &long] {
            assert_eq!(numbers.check(reply), Check::Unknown);
        }
    }
}
