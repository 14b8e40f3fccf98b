//! Rates as people write them: `10k/s`, `10Mbit`.

/// A quantity that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No number where one was expected.
    #[error("`{text}` does not start with a number: write {expected}")]
    NoNumber {
        /// What was given.
        text: String,
        /// Examples of what is understood.
        expected: &'static str,
    },
    /// A unit nobody knows.
    #[error("`{unit}` is not a known unit: write {expected}")]
    UnknownUnit {
        /// What follows the number.
        unit: String,
        /// Examples of what is understood.
        expected: &'static str,
    },
    /// A number that makes no sense here.
    #[error("`{text}` is out of range: {range}")]
    OutOfRange {
        /// What was given.
        text: String,
        /// The range in words.
        range: &'static str,
    },
}

/// Events per second: `10000`, `10k`, `0.5/s`, `1M/s`. Decimal multiples.
pub fn per_second(text: &str) -> Result<f64, UnitError> {
    const UNITS: &[(&str, f64)] = &[("", 1.0), ("k", 1e3), ("m", 1e6), ("g", 1e9)];
    let bare = text.trim();
    let bare = bare.strip_suffix("/s").unwrap_or(bare);
    scaled(bare, UNITS, "a rate such as 500, 10k, 2.5/s or max")
}

/// A bandwidth in bits per second: `10Mbit`, `10M`, `1Gbit/s`, `500kbps`. Decimal multiples.
pub fn bits_per_second(text: &str) -> Result<f64, UnitError> {
    const UNITS: &[(&str, f64)] = &[
        ("", 1.0),
        ("bit", 1.0),
        ("bps", 1.0),
        ("k", 1e3),
        ("kbit", 1e3),
        ("kbps", 1e3),
        ("m", 1e6),
        ("mbit", 1e6),
        ("mbps", 1e6),
        ("g", 1e9),
        ("gbit", 1e9),
        ("gbps", 1e9),
    ];
    let bare = text.trim();
    let bare = bare.strip_suffix("/s").unwrap_or(bare);
    scaled(bare, UNITS, "a bandwidth such as 10Mbit, 1Gbit/s or max")
}

/// A number and the factor of its unit, multiplied. Never negative, infinite or NaN.
fn scaled(text: &str, units: &[(&str, f64)], expected: &'static str) -> Result<f64, UnitError> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| UnitError::NoNumber { text: text.to_owned(), expected })?;
    let unit = unit.trim().to_lowercase();
    let (_, factor) = units
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| UnitError::UnknownUnit { unit: unit.clone(), expected })?;
    let value = number * factor;
    if !value.is_finite() {
        return Err(UnitError::OutOfRange { text: text.to_owned(), range: "a finite number" });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_as_people_write_them() {
        for (text, rate) in [("10000", 1e4), ("10k", 1e4), ("1000/s", 1e3), ("0.5/s", 0.5), ("1.5M", 1.5e6)] {
            assert_eq!(per_second(text), Ok(rate), "{text}");
        }
        assert!(matches!(per_second("fast"), Err(UnitError::NoNumber { .. })));
        assert!(matches!(per_second("10q"), Err(UnitError::UnknownUnit { .. })));
        assert!(per_second("-1").is_err());
        assert!(per_second("").is_err());
        assert!(per_second("1.2.3").is_err());
    }

    #[test]
    fn bandwidths_as_people_write_them() {
        for (text, bits) in [("10Mbit", 1e7), ("10M", 1e7), ("1Gbit/s", 1e9), ("500kbps", 5e5), ("8", 8.0)] {
            assert_eq!(bits_per_second(text), Ok(bits), "{text}");
        }
    }
}
