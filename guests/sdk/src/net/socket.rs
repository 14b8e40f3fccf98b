//! What all sockets share: a handle that closes itself, and waiting by trying.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::task::Poll;

use roam_abi::{ADDRESS_BYTES, Address, Errno, SocketOption};

use crate::reactor::{self, Half};
use crate::{Error, Result, sys};

/// An open socket; dropping it closes it, and what is queued still leaves.
#[derive(Debug)]
pub(super) struct Socket(u32);

impl Socket {
    /// Takes over a handle the host has just given.
    pub(super) fn own(handle: u32) -> Self {
        Self(handle)
    }

    pub(super) fn handle(&self) -> u32 {
        self.0
    }

    /// Tries `operation` now and after each event of that half, until it does not say `AGAIN`.
    pub(super) fn until_done<T>(
        &self,
        half: Half,
        mut operation: impl FnMut(u32) -> Result<T, Errno>,
    ) -> impl Future<Output = Result<T>> {
        poll_fn(move |cx| match operation(self.0) {
            Err(Errno::AGAIN) => {
                reactor::wait(self.0, half, cx.waker());
                Poll::Pending
            }
            done => Poll::Ready(done.map_err(Error::from)),
        })
    }

    /// Waits for the next event of that half.
    pub(super) async fn event(&self, half: Half) {
        let mut waited = false;
        self.until_done(half, |_| if std::mem::replace(&mut waited, true) { Ok(()) } else { Err(Errno::AGAIN) })
            .await
            .expect("the operation only ever waits or succeeds");
    }

    pub(super) fn set_option(&self, option: SocketOption, value: i64) -> Result<()> {
        sys::set_option(self.0, option, value)?;
        Ok(())
    }

    pub(super) fn local_addr(&self) -> Result<SocketAddr> {
        address_from(|bytes| sys::local_addr(self.0, bytes))
    }

    pub(super) fn peer_addr(&self) -> Result<SocketAddr> {
        address_from(|bytes| sys::peer_addr(self.0, bytes))
    }

    /// Gives the handle up and resets the connection.
    pub(super) fn abort(self) {
        reactor::forget(self.0);
        // A stale handle is what abort leaves behind anyway.
        let _ = sys::abort(self.0);
        std::mem::forget(self);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        reactor::forget(self.0);
        // Only fails for a handle that is closed already.
        let _ = sys::close(self.0);
    }
}

/// Calls an import that writes an address.
fn address_from(import: impl FnOnce(&mut [u8; ADDRESS_BYTES]) -> Result<u32, Errno>) -> Result<SocketAddr> {
    let mut bytes = [0; ADDRESS_BYTES];
    import(&mut bytes)?;
    Ok(Address::from_bytes(&bytes)?.0)
}

/// Sends one datagram.
pub(super) fn send_to(handle: u32, bytes: &[u8], to: SocketAddr) -> Result<(), Errno> {
    sys::send_to(handle, bytes, &Address(to).to_bytes()).map(drop)
}

/// Receives one datagram: the bytes copied, which is less than its length where `bytes` is too short.
pub(super) fn recv_from(handle: u32, bytes: &mut [u8]) -> Result<(usize, SocketAddr), Errno> {
    let mut from = [0; ADDRESS_BYTES];
    let len = sys::recv_from(handle, bytes, &mut from)?;
    Ok(((len as usize).min(bytes.len()), Address::from_bytes(&from)?.0))
}

/// Buffer sizes a guest asks for; 0 is the host's default, what is too large the host refuses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Buffers {
    pub(super) rx_bytes: u32,
    pub(super) tx_bytes: u32,
}

impl Buffers {
    pub(super) fn new(rx_bytes: usize, tx_bytes: usize) -> Self {
        let narrow = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { rx_bytes: narrow(rx_bytes), tx_bytes: narrow(tx_bytes) }
    }
}
