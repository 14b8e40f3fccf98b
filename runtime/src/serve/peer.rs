//! Who asks, and how much of the daemon they have taken.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use hyper::http::request::Parts;

use super::Limits;
use super::answer::Refusal;
use crate::api::ErrorCode;
use crate::cert::Role;

/// Who asks. Known, and proven, before a handler runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    /// A user of this machine who may open the socket.
    User(u32),
    /// The holder of a certificate.
    Holder {
        /// Its name.
        name: String,
        /// What it may do.
        role: Role,
    },
}

impl Peer {
    /// Who may open the socket may do everything.
    pub(crate) fn role(&self) -> Role {
        match self {
            Self::User(_) => Role::Operator,
            Self::Holder { role, .. } => *role,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Holder { name, role } => write!(f, "{role} {name}"),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        // Set for each connection before anything is read from it.
        let known = parts.extensions.get().cloned();
        known.ok_or_else(|| Refusal::new(ErrorCode::Internal, "a request of nobody"))
    }
}

/// Why a peer gets no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The daemon has enough connections.
    Full,
    /// This peer has enough.
    PeerFull,
}

/// Counts of connections and requests by peer.
pub(crate) struct Peers {
    known: Mutex<HashMap<Peer, Taken>>,
    connections_max: usize,
    connections_peer_max: usize,
    peers_max: usize,
    rate: Rate,
}

struct Taken {
    connections: usize,
    bucket: Bucket,
}

/// A connection that counts while this lives.
pub(crate) struct Place {
    peers: Arc<Peers>,
    peer: Peer,
}

impl Peers {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            known: Mutex::default(),
            connections_max: limits.connections_max,
            connections_peer_max: limits.connections_peer_max,
            peers_max: limits.peers_max,
            rate: Rate { per_s: limits.requests_per_s.into(), burst: limits.requests_burst.into() },
        }
    }

    /// A place for one more connection.
    pub(crate) fn enter(self: &Arc<Self>, peer: &Peer, now: Instant) -> Result<Place, Denied> {
        let mut known = self.lock();
        if known.len() >= self.peers_max {
            // Whoever is gone and has its full allowance back is as good as unknown.
            known.retain(|_, taken| taken.connections > 0 || !taken.bucket.is_full(self.rate, now));
        }
        let connections: usize = known.values().map(|taken| taken.connections).sum();
        if connections >= self.connections_max || (known.len() >= self.peers_max && !known.contains_key(peer)) {
            return Err(Denied::Full);
        }
        let taken = match known.entry(peer.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Taken { connections: 0, bucket: Bucket::full(self.rate, now) }),
        };
        if taken.connections >= self.connections_peer_max {
            return Err(Denied::PeerFull);
        }
        taken.connections += 1;
        Ok(Place { peers: self.clone(), peer: peer.clone() })
    }

    /// Counts a request; an error says when to come back. The peer has a connection.
    pub(crate) fn request(&self, peer: &Peer, now: Instant) -> Result<(), Duration> {
        match self.lock().get_mut(peer) {
            Some(taken) => taken.bucket.take(self.rate, now),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Peer, Taken>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The entry stays: whoever comes back at once has no new allowance.
        if let Some(taken) = self.peers.lock().get_mut(&self.peer) {
            taken.connections -= 1;
        }
    }
}

/// Things counted by key, each and all with a limit.
pub(crate) struct Crowd<K> {
    inside: Mutex<HashMap<K, usize>>,
    all_max: usize,
    each_max: usize,
}

/// One of a crowd while this lives.
pub(crate) struct Ticket<K: Eq + Hash> {
    crowd: Arc<Crowd<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Crowd<K> {
    pub(crate) fn new(all_max: usize, each_max: usize) -> Self {
        Self { inside: Mutex::default(), all_max, each_max }
    }

    pub(crate) fn enter(self: &Arc<Self>, key: K) -> Option<Ticket<K>> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = inside.values().sum();
        if all >= self.all_max || inside.get(&key).is_some_and(|&count| count >= self.each_max) {
            return None;
        }
        *inside.entry(key.clone()).or_default() += 1;
        Some(Ticket { crowd: self.clone(), key })
    }
}

impl<K: Eq + Hash> Drop for Ticket<K> {
    fn drop(&mut self) {
        let mut inside = self.crowd.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = inside.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                inside.remove(&self.key);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Rate {
    per_s: f64,
    burst: f64,
}

/// A token bucket: filled at a rate, up to a burst.
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, at: now }
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.tokens = (self.tokens + passed.as_secs_f64() * rate.per_s).min(rate.burst);
        self.at = now;
    }

    fn is_full(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        self.tokens >= rate.burst
    }

    fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.fill(rate, now);
        if self.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.tokens) / rate.per_s));
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(connections_max: usize, connections_peer_max: usize) -> Arc<Peers> {
        let limits = Limits {
            connections_max,
            connections_peer_max,
            peers_max: 3,
            requests_per_s: 10,
            requests_burst: 2,
            ..Limits::default()
        };
        Arc::new(Peers::new(&limits))
    }

    #[test]
    fn connections_have_limits_and_give_their_place_back() {
        let (peers, now) = (peers(3, 2), Instant::now());
        let first = peers.enter(&Peer::User(1), now).ok();
        let second = peers.enter(&Peer::User(1), now).ok();
        assert_eq!(peers.enter(&Peer::User(1), now).err(), Some(Denied::PeerFull));
        let third = peers.enter(&Peer::User(2), now).ok();
        assert_eq!(peers.enter(&Peer::User(3), now).err(), Some(Denied::Full));
        assert!(first.is_some() && second.is_some() && third.is_some());
        drop(first);
        assert!(peers.enter(&Peer::User(3), now).is_ok());
    }

    #[test]
    fn a_rate_is_no_reset_by_coming_again() {
        let (peers, now) = (peers(9, 9), Instant::now());
        let peer = Peer::User(7);
        let place = peers.enter(&peer, now);
        assert_eq!((peers.request(&peer, now), peers.request(&peer, now)), (Ok(()), Ok(())));
        assert_eq!(peers.request(&peer, now), Err(Duration::from_millis(100)));
        drop(place);
        let _place = peers.enter(&peer, now);
        assert!(peers.request(&peer, now).is_err());
        assert_eq!(peers.request(&peer, now + Duration::from_millis(101)), Ok(()));
    }

    #[test]
    fn peers_that_are_gone_are_forgotten_once_they_are_whole() {
        let (peers, now) = (peers(9, 9), Instant::now());
        for uid in 0..3 {
            let _place = peers.enter(&Peer::User(uid), now);
            assert_eq!(peers.request(&Peer::User(uid), now), Ok(()));
        }
        assert_eq!(peers.enter(&Peer::User(3), now).err(), Some(Denied::Full));
        assert!(peers.enter(&Peer::User(3), now + Duration::from_secs(1)).is_ok());
        assert_eq!(peers.lock().len(), 1);
    }

    #[test]
    fn a_crowd_has_room_for_each() {
        let crowd = Arc::new(Crowd::new(3, 2));
        let both = (crowd.enter('a'), crowd.enter('a'));
        assert!(both.0.is_some() && both.1.is_some() && crowd.enter('a').is_none());
        let other = crowd.enter('b');
        assert!(other.is_some() && crowd.enter('c').is_none());
        drop(both);
        assert!(crowd.enter('c').is_some());
    }
}
