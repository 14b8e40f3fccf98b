//! A request's body that must keep coming and must end.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use hyper::body::Body as _;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Limits;
use super::answer::Refusal;
use crate::api::ErrorCode;

/// Why a body is not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is larger than {bytes_max} bytes")]
    TooLarge { bytes_max: u64 },
    #[error("the body came too slowly: no byte for {} s, or fewer than {bytes_per_s_min} a second", stall.as_secs_f64())]
    TooSlow { stall: Duration, bytes_per_s_min: u64 },
    #[error("the body ended before its end, or is not chunked as it should be")]
    Broken,
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        let code = match error {
            BodyError::TooLarge { .. } => ErrorCode::TooLarge,
            BodyError::TooSlow { .. } => ErrorCode::TooSlow,
            BodyError::Broken => ErrorCode::BadRequest,
        };
        Self::new(code, error.to_string())
    }
}

/// The bytes of a body, within limits of size and time.
pub(crate) struct Guarded {
    data: BodyDataStream,
    received_bytes: u64,
    bytes_max: u64,
    stall: Duration,
    bytes_per_s_min: u64,
    began: Instant,
    timer: Pin<Box<Sleep>>,
    fate: Fate,
}

/// What went wrong with a body, for who gave it away as a stream.
#[derive(Clone, Default)]
pub(crate) struct Fate(Arc<OnceLock<BodyError>>);

impl Fate {
    pub(crate) fn error(&self) -> Option<BodyError> {
        self.0.get().copied()
    }
}

impl Guarded {
    /// An error at once when the header says that it is too large.
    pub(crate) fn new(body: Body, bytes_max: u64, limits: &Limits) -> Result<Self, BodyError> {
        if body.size_hint().lower() > bytes_max {
            return Err(BodyError::TooLarge { bytes_max });
        }
        let began = Instant::now();
        Ok(Self {
            data: body.into_data_stream(),
            received_bytes: 0,
            bytes_max,
            stall: limits.body_stall,
            bytes_per_s_min: limits.body_bytes_per_s_min.max(1),
            began,
            timer: Box::pin(sleep_until(began + limits.body_stall)),
            fate: Fate::default(),
        })
    }

    pub(crate) fn fate(&self) -> Fate {
        self.fate.clone()
    }

    /// All of it.
    pub(crate) async fn collect(mut self) -> Result<Bytes, BodyError> {
        let mut all = BytesMut::new();
        while let Some(bytes) = self.next().await {
            all.extend_from_slice(&bytes.map_err(|_| self.fate.error().unwrap_or(BodyError::Broken))?);
        }
        Ok(all.freeze())
    }

    fn took(&mut self, bytes: usize) -> Result<(), BodyError> {
        self.received_bytes += bytes as u64;
        if self.received_bytes > self.bytes_max {
            return Err(BodyError::TooLarge { bytes_max: self.bytes_max });
        }
        let age = self.began.elapsed();
        let patience = patience(age, self.received_bytes, self.stall, self.bytes_per_s_min);
        self.timer.as_mut().reset(self.began + age + patience);
        Ok(())
    }

    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match self.data.poll_next_unpin(cx) {
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Ok(bytes))) => Poll::Ready(Some(self.took(bytes.len()).map(|()| bytes))),
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(BodyError::Broken))),
            Poll::Pending => {
                self.timer.as_mut().poll(cx).map(|()| {
                    Some(Err(BodyError::TooSlow { stall: self.stall, bytes_per_s_min: self.bytes_per_s_min }))
                })
            }
        }
    }
}

/// How long to wait for the next bytes of a body of that age: a while, and no longer than its rate allows.
fn patience(age: Duration, received_bytes: u64, stall: Duration, bytes_per_s_min: u64) -> Duration {
    let paid_for = Duration::from_secs_f64(received_bytes as f64 / bytes_per_s_min as f64);
    (stall + paid_for).saturating_sub(age).min(stall)
}

impl Stream for Guarded {
    type Item = Result<Bytes, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(error) = self.fate.error() {
            return Poll::Ready(Some(Err(io::Error::other(error))));
        }
        self.advance(cx).map(|item| {
            item.map(|bytes| {
                bytes.map_err(|error| {
                    // Set once: a body that has failed stays so.
                    let _ = self.fate.0.set(error);
                    io::Error::other(error)
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    async fn collect(body: Body, bytes_max: u64) -> Result<usize, BodyError> {
        Ok(Guarded::new(body, bytes_max, &Limits::default())?.collect().await?.len())
    }

    #[tokio::test]
    async fn sizes() {
        assert_eq!(collect(Body::from("0123456789"), 10).await, Ok(10));
        assert_eq!(collect(Body::from("0123456789"), 9).await, Err(BodyError::TooLarge { bytes_max: 9 }));
        // Without a length in the header it shows on the way.
        let pieces = || stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(b"x"))).take(10);
        assert_eq!(collect(Body::from_stream(pieces()), 10).await, Ok(10));
        assert_eq!(collect(Body::from_stream(pieces()), 9).await, Err(BodyError::TooLarge { bytes_max: 9 }));
    }

    #[test]
    fn a_body_must_keep_coming() {
        let s = Duration::from_secs;
        let patience = |age_s, received_bytes| patience(s(age_s), received_bytes, s(10), 100);
        // Fast enough: a pause may take as long as any.
        assert_eq!(patience(1, 100), s(10));
        assert_eq!(patience(1, 1 << 40), s(10));
        // Never still for long, but in all too slow.
        assert_eq!(patience(8, 8), Duration::from_millis(2080));
        assert_eq!(patience(11, 11), Duration::ZERO);
    }
}
