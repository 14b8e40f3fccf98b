//! Quantities as people write them.

use std::time::Duration;

/// `64MiB`, `64M`, `64m`, `65536`: bytes. K, M and G are powers of 1024, as memory sizes are.
pub(crate) fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(format!("`{unit}` is not a unit of size; write for example 64MiB")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is not a size; write for example 64MiB"))?;
    let bytes = number * factor as f64;
    if !(0.0..=(1u64 << 52) as f64).contains(&bytes) {
        return Err(format!("`{text}` is out of range"));
    }
    Ok(bytes as usize)
}

/// `5ms`, `1.5s`, `200us`, `2m`: a time. A bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let seconds = match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(format!("`{unit}` is not a unit of time; write for example 5ms")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is not a time; write for example 5ms"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| format!("`{text}` is out of range"))
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [("0", 0), ("1500", 1500), ("64MiB", 64 << 20), ("1.5k", 1536), (" 2 GiB ", 2 << 30)] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "MiB", "-1", "1.2.3", "5 parsecs", "99999999999G"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, expected) in [("5ms", 5_000_000), ("200us", 200_000), ("1.5s", 1_500_000_000), ("2", 2_000_000_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_nanos(expected)), "{text}");
        }
        for text in ["", "ms", "-1s", "1 fortnight", "1e400"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
