//! Buffers: who has how much, and closed TCP sockets kept for theirs.

use alloc::{vec, vec::Vec};

use roam_abi::Errno;
use smoltcp::socket::tcp;

use super::Single;

/// Closed TCP sockets kept.
const KEPT_MAX: usize = 64;

/// The buffers of all sockets, against one limit: whatever peers do, a guest's netstack does not run out of memory.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Buffers that exist, in use and kept.
    bytes: usize,
    bytes_max: usize,
    /// With the sizes of their buffers, receive and send.
    kept: Vec<(usize, usize, Single)>,
}

impl Pool {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes: 0, bytes_max, kept: Vec::new() }
    }

    /// Counts buffers that are about to be made; [`Errno::NOMEM`] if they would be too many.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<(), Errno> {
        while self.bytes + bytes > self.bytes_max {
            let (rx_bytes, tx_bytes, _) = self.kept.pop().ok_or(Errno::NOMEM)?;
            self.bytes -= rx_bytes + tx_bytes;
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Buffers that were counted are gone.
    pub(crate) fn free(&mut self, bytes: usize) {
        self.bytes -= bytes;
    }

    /// A TCP socket with buffers of these sizes; a used one if there is one, so that its buffers need not be zeroed.
    pub(crate) fn take(&mut self, rx_bytes: usize, tx_bytes: usize) -> Result<Single, Errno> {
        if let Some(place) = self.kept.iter().rposition(|(rx, tx, _)| (*rx, *tx) == (rx_bytes, tx_bytes)) {
            return Ok(self.kept.swap_remove(place).2);
        }
        self.reserve(rx_bytes + tx_bytes)?;
        let (rx, tx) = (vec![0; rx_bytes], vec![0; tx_bytes]);
        Ok(Single::new(tcp::Socket::new(tcp::SocketBuffer::new(rx), tcp::SocketBuffer::new(tx))))
    }

    /// Takes a TCP socket back.
    pub(crate) fn put(&mut self, single: Single) {
        let socket: &tcp::Socket<'static> = single.get();
        let (rx_bytes, tx_bytes) = (socket.recv_capacity(), socket.send_capacity());
        if self.kept.len() < KEPT_MAX {
            self.kept.push((rx_bytes, tx_bytes, single));
        } else {
            self.free(rx_bytes + tx_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_stay_within_the_limit_and_are_used_again() {
        let mut pool = Pool::new(10_000);
        let first = pool.take(3000, 3000).expect("room");
        assert_eq!(pool.take(3000, 3000).err(), Some(Errno::NOMEM));
        assert_eq!(pool.reserve(4001), Err(Errno::NOMEM));
        pool.put(first);
        let again = pool.take(3000, 3000).expect("the one kept");
        assert_eq!(pool.bytes, 6000);
        pool.put(again);
        // What is kept makes way for what is asked for.
        pool.reserve(9000).expect("room");
        assert_eq!((pool.bytes, pool.kept.len()), (9000, 0));
        pool.free(9000);
        assert_eq!(pool.bytes, 0);
    }
}
