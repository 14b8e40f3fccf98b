//! `/stream`: bytes at a pace, each checkable by its offset.

use std::time::Duration;

use crate::head::number;

/// Bytes sent at a time at most, and as fast as possible.
pub const SLICE_BYTES_MAX: u64 = 16 * 1024;
/// A paced stream is cut into about so many slices a second.
const SLICES_PER_S: u64 = 100;

/// What a client may ask of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamRequest {
    /// Its length; without one it never ends.
    pub bytes: Option<u64>,
    /// Bytes a second; 0 is as fast as possible.
    pub rate: u64,
}

/// Why a query asks for no stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither bytes=N nor rate=BYTES_PER_SECOND")]
pub struct StreamQueryError(String);

impl StreamRequest {
    /// Reads `bytes=N&rate=R`, both optional.
    pub fn parse(query: &str) -> Result<Self, StreamQueryError> {
        let mut request = Self::default();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let value = parameter.split_once('=').and_then(|(_, value)| number(value.as_bytes()));
            match (parameter.split('=').next(), value) {
                (Some("bytes"), Some(bytes)) => request.bytes = Some(bytes),
                (Some("rate"), Some(rate)) => request.rate = rate,
                _ => return Err(StreamQueryError(parameter.to_owned())),
            }
        }
        Ok(request)
    }

    /// Length of the slice that starts at `offset`; 0 at the end.
    pub fn slice_bytes(&self, offset: u64) -> u64 {
        let slice = match self.rate {
            0 => SLICE_BYTES_MAX,
            rate => (rate / SLICES_PER_S).clamp(1, SLICE_BYTES_MAX),
        };
        slice.min(self.bytes.unwrap_or(u64::MAX).saturating_sub(offset))
    }

    /// How long after the start the slice at `offset` leaves. The schedule does not slip: after a pause, the stream goes
    /// on as fast as it can until it is level again.
    pub fn due(&self, offset: u64) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let ns = u128::from(offset) * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        assert_eq!(StreamRequest::parse(""), Ok(StreamRequest::default()));
        assert_eq!(StreamRequest::parse("rate=5&bytes=7&"), Ok(StreamRequest { bytes: Some(7), rate: 5 }));
        for wrong in ["bytes", "bytes=", "bytes=x", "rate=-1", "speed=5", "bytes=5&=", "bytes=99999999999999999999"] {
            let error = StreamRequest::parse(wrong).expect_err(wrong).to_string();
            assert!(error.ends_with("is neither bytes=N nor rate=BYTES_PER_SECOND"), "{error}");
        }
    }

    #[test]
    fn a_paced_stream_takes_as_long_as_it_should() {
        let request = StreamRequest { bytes: Some(10_000), rate: 1_000 };
        let (mut offset, mut slices) = (0, 0);
        while request.slice_bytes(offset) > 0 {
            assert_eq!(request.due(offset), Duration::from_millis(offset));
            offset += request.slice_bytes(offset);
            slices += 1;
        }
        assert_eq!((offset, slices), (10_000, 1_000));
    }

    #[test]
    fn any_rate_makes_progress() {
        for rate in [0, 1, 99, 1 << 40, u64::MAX] {
            let request = StreamRequest { bytes: None, rate };
            assert!((1..=SLICE_BYTES_MAX).contains(&request.slice_bytes(u64::MAX / 2)));
            request.due(u64::MAX);
        }
    }
}
