//! How often nftables' rules have changed: what is as it was need not be read again, which takes `nft` a while.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_GETGEN`.
const GET_GENERATION: u16 = 10 << 8 | 16;
/// The same with `NFT_MSG_NEWGEN`.
const GENERATION: u16 = 10 << 8 | 15;
const NLM_F_REQUEST: u16 = 1;
/// Netlink's header, nfnetlink's, and that of the first attribute.
const HEADERS_BYTES: usize = 16 + 4 + 4;

/// A connection to nfnetlink.
pub(super) struct Generations(Socket);

impl Generations {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// The number of the rules as they are; `None` if this kernel does not say.
    pub(super) fn current(&self) -> io::Result<Option<u32>> {
        let mut request = [0; 20];
        request[..4].copy_from_slice(&20u32.to_ne_bytes());
        request[4..6].copy_from_slice(&GET_GENERATION.to_ne_bytes());
        request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        self.0.send(&request, 0)?;
        let mut answer = [0; 512];
        let length = self.0.recv(&mut &mut answer[..], 0)?.min(answer.len());
        Ok(read(&answer[..length]))
    }
}

/// The first attribute is the number.
fn read(answer: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let number = answer.get(HEADERS_BYTES..HEADERS_BYTES + 4)?.try_into().ok()?;
    (kind == GENERATION).then(|| u32::from_be_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_nothing_else() {
        let mut answer = [0; 28];
        answer[4..6].copy_from_slice(&GENERATION.to_ne_bytes());
        answer[24..].copy_from_slice(&7u32.to_be_bytes());
        assert_eq!(read(&answer), Some(7));
        assert_eq!(read(&answer[..27]), None);
        answer[4] = 2;
        assert_eq!(read(&answer), None);
        assert_eq!(read(&[]), None);
    }
}
