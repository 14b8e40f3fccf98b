//! What makes a copy of a guest another host.
//!
//! A guest that moves keeps its random state and its connections. One that is restored beside its original, or a second
//! time, must share neither: the same sequence numbers, ports and keys would be used twice, and two hosts would answer
//! for one address.

use roam_netstack::{Config, ConfigError};

use super::{Guest, Stopped};

/// Why a guest did not get other addresses.
#[derive(Debug, thiserror::Error)]
pub enum ReaddressError {
    /// The network configuration is not possible; nothing has changed.
    #[error("the network configuration is not possible")]
    Network(#[from] ConfigError),
    /// It ended meanwhile.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl Guest {
    /// Draws everything random from another seed from now on: what the host gives the guest, and its netstack's sequence
    /// numbers and ports. What the guest has drawn before and keeps in its memory stays.
    pub fn reseed(&mut self, seed: [u8; 32]) -> Result<(), Stopped> {
        self.store.data_mut().reseed(seed);
        let seed = self.store.data_mut().random_u64();
        self.stack.reseed(&mut self.store, seed)
    }

    /// Has other addresses from the next [`Self::poll`] on, and announces them with it: the MAC, IP addresses, gateways,
    /// MTU and offloads of `network`. Its seed and sizes count for nothing. What becomes of sockets:
    /// [`roam_netstack::Netstack::readdress`].
    pub fn readdress(&mut self, network: &Config) -> Result<(), ReaddressError> {
        network.check()?;
        Ok(self.stack.readdress(&mut self.store, network)?)
    }
}
