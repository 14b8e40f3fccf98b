//! Whole numbers of bounded size, nine decimal digits a limb: quick to read and print, which is most of the work.

use std::io::Write;

/// Digits a number may have, leading zeros aside.
pub const DIGITS_MAX: usize = 1000;

const LIMB_DIGITS: usize = 9;
const LIMB: u64 = 1_000_000_000;
const LIMBS_MAX: usize = DIGITS_MAX.div_ceil(LIMB_DIGITS);

/// A number that can be squared. Its sign is forgotten: no square needs it.
#[derive(Clone, Debug)]
pub struct Number {
    /// Least significant first; what is past `len` is zero.
    limbs: [u32; LIMBS_MAX],
    len: usize,
}

/// The square of a [`Number`].
#[derive(Clone, Debug)]
pub struct Square {
    limbs: [u32; 2 * LIMBS_MAX],
    len: usize,
}

/// Why bytes are not a [`Number`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// Nothing, or white space only.
    #[error("no number")]
    Empty,
    /// A sign alone.
    #[error("no digits after '-'")]
    NoDigits,
    /// Something else than `0` to `9`.
    #[error("'{}' at byte {position} is not a digit", byte.escape_ascii())]
    NotADigit {
        /// What stands there.
        byte: u8,
        /// Where, from 1, in the whole of what was parsed.
        position: usize,
    },
    /// Longer than [`DIGITS_MAX`].
    #[error("{digits} digits are more than {DIGITS_MAX}")]
    TooLong {
        /// Its digits, leading zeros aside.
        digits: usize,
    },
}

impl Number {
    /// Reads a decimal number: an optional `-`, digits, and white space around them.
    pub fn parse(text: &[u8]) -> Result<Self, NumberError> {
        let trimmed = text.trim_ascii();
        let start = text.len() - text.trim_ascii_start().len();
        let (digits, start) = match trimmed.strip_prefix(b"-") {
            _ if trimmed.is_empty() => return Err(NumberError::Empty),
            Some(b"") => return Err(NumberError::NoDigits),
            Some(digits) => (digits, start + 1),
            None => (trimmed, start),
        };
        if let Some(index) = digits.iter().position(|byte| !byte.is_ascii_digit()) {
            return Err(NumberError::NotADigit { byte: digits[index], position: start + index + 1 });
        }
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        let digits = &digits[zeros..];
        if digits.len() > DIGITS_MAX {
            return Err(NumberError::TooLong { digits: digits.len() });
        }
        let mut limbs = [0; LIMBS_MAX];
        for (limb, digits) in limbs.iter_mut().zip(digits.rchunks(LIMB_DIGITS)) {
            *limb = digits.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
        }
        Ok(Self { limbs, len: digits.len().div_ceil(LIMB_DIGITS) })
    }

    /// Multiplies the number by itself, limb by limb.
    pub fn square(&self) -> Square {
        let mut limbs = [0; 2 * LIMBS_MAX];
        let factors = &self.limbs[..self.len];
        for (shift, a) in factors.iter().enumerate() {
            let mut carry = 0;
            for (limb, b) in limbs[shift..].iter_mut().zip(factors) {
                let sum = u64::from(*limb) + u64::from(*a) * u64::from(*b) + carry;
                *limb = (sum % LIMB) as u32;
                carry = sum / LIMB;
            }
            limbs[shift + factors.len()] = carry as u32;
        }
        let len = limbs.iter().rposition(|limb| *limb != 0).map_or(0, |last| last + 1);
        Square { limbs, len }
    }
}

impl Square {
    /// Appends the number in decimal.
    pub fn print(&self, out: &mut Vec<u8>) {
        let Some((first, rest)) = self.limbs[..self.len].split_last() else { return out.push(b'0') };
        write!(out, "{first}").expect("a Vec takes all bytes");
        for limb in rest.iter().rev() {
            write!(out, "{limb:0width$}", width = LIMB_DIGITS).expect("a Vec takes all bytes");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn squares_agree_with_the_machine(number: u64) {
            let mut out = Vec::new();
            Number::parse(number.to_string().as_bytes()).expect("a number").square().print(&mut out);
            prop_assert_eq!(out, (u128::from(number) * u128::from(number)).to_string().into_bytes());
        }

        // (10^k)^2 and (10^k - 1)^2 are known at any length.
        #[test]
        fn squares_of_round_numbers_are_round(zeros in 0..DIGITS_MAX) {
            let mut out = Vec::new();
            Number::parse(format!("1{}", "0".repeat(zeros)).as_bytes()).expect("a number").square().print(&mut out);
            prop_assert_eq!(out, format!("1{}", "0".repeat(2 * zeros)).into_bytes());
        }

        #[test]
        fn anything_is_answered(text: Vec<u8>) {
            if let Ok(number) = Number::parse(&text) {
                number.square().print(&mut Vec::new());
            }
        }
    }
}
