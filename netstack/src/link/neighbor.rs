//! Neighbours on the link: their MACs, and the frames that wait for one.

use alloc::{boxed::Box, collections::VecDeque, vec::Vec};
use core::net::IpAddr;

/// Neighbours remembered; the one heard of longest ago makes room.
const NEIGHBORS_MAX: usize = 1024;
/// Neighbours asked for at one time.
const ASKING_MAX: usize = 64;
/// Frames that wait for one neighbour; the oldest makes room.
const HELD_FRAMES_MAX: usize = 256;
/// Bytes that wait for all of them.
const HELD_BYTES_MAX: usize = 256 * 1024;
/// How long a neighbour that says nothing is believed to be where it was.
const FRESH_NS: i64 = 60_000_000_000;
/// Between two questions (RFC 4861: RETRANS_TIMER).
const ASK_NS: i64 = 1_000_000_000;
/// Questions without an answer before a neighbour is given up (RFC 4861: MAX_MULTICAST_SOLICIT).
const ASKS_MAX: u8 = 3;

/// A frame without its Ethernet header filled in.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) frame: Vec<u8>,
    pub(super) segment_bytes: u16,
}

#[derive(Debug, Default)]
struct Neighbor {
    mac: Option<[u8; 6]>,
    heard_ns: i64,
    /// Questions asked since it was last heard of, and when the next is due.
    asks: u8,
    ask_at_ns: Option<i64>,
    held: VecDeque<Held>,
}

/// Neighbours in order of their addresses.
#[derive(Debug, Default)]
struct Known(Vec<(IpAddr, Box<Neighbor>)>);

/// Everybody on the link we have dealt with.
#[derive(Debug, Default)]
pub(super) struct Neighbors {
    known: Known,
    /// Those with a question open: a subset, so that timers cost nothing while there are none.
    asking: Vec<IpAddr>,
    held_bytes: usize,
    released: VecDeque<([u8; 6], Held)>,
    /// The neighbour that was used last: traffic comes in runs.
    last: Option<(IpAddr, [u8; 6], i64)>,
}

impl Neighbors {
    /// The MAC of `hop`. One that has not been heard of for long is asked whether it is still there.
    pub(super) fn lookup(&mut self, hop: IpAddr, now_ns: i64) -> Option<[u8; 6]> {
        if let Some((last, mac, fresh_until_ns)) = self.last
            && last == hop
            && now_ns < fresh_until_ns
        {
            return Some(mac);
        }
        let neighbor = self.known.get_mut(hop)?;
        let mac = neighbor.mac?;
        let fresh_until_ns = neighbor.heard_ns + FRESH_NS;
        if now_ns < fresh_until_ns {
            self.last = Some((hop, mac, fresh_until_ns));
        } else if neighbor.ask_at_ns.is_none() && self.asking.len() < ASKING_MAX {
            neighbor.ask_at_ns = Some(now_ns);
            self.asking.push(hop);
        }
        Some(mac)
    }

    /// `hop` has just sent something from `mac`.
    pub(super) fn confirm(&mut self, hop: IpAddr, mac: [u8; 6], now_ns: i64) {
        // Half the time is precise enough, and spares the search for every packet.
        if let Some((last, last_mac, fresh_until_ns)) = self.last
            && (last, last_mac) == (hop, mac)
            && now_ns < fresh_until_ns - FRESH_NS / 2
        {
            return;
        }
        if self.known.get(hop).is_some_and(|neighbor| neighbor.mac == Some(mac)) {
            self.learn(hop, mac, false, false, now_ns);
            self.last = Some((hop, mac, now_ns + FRESH_NS));
        }
    }

    /// `hop` says its MAC is `mac`. A stranger is remembered with `create`; a MAC that is known is only replaced with
    /// `replace`.
    pub(super) fn learn(&mut self, hop: IpAddr, mac: [u8; 6], create: bool, replace: bool, now_ns: i64) {
        if create && self.known.get(hop).is_none() {
            self.make_room();
            self.known.insert(hop, Neighbor::default());
        }
        let Some(neighbor) = self.known.get_mut(hop) else { return };
        if !replace && neighbor.mac.is_some_and(|known| known != mac) {
            return;
        }
        (neighbor.mac, neighbor.heard_ns, neighbor.asks) = (Some(mac), now_ns, 0);
        self.released.extend(neighbor.held.drain(..).map(|held| (mac, held)));
        if neighbor.ask_at_ns.take().is_some() {
            self.asking.retain(|asking| *asking != hop);
        }
        self.last = None;
    }

    /// Keeps a frame for `hop` and has it asked for. Returns how many frames were given up.
    pub(super) fn hold(&mut self, hop: IpAddr, frame: Vec<u8>, segment_bytes: u16, now_ns: i64) -> u64 {
        let mut lost = 0;
        if self.known.get(hop).is_none() {
            if self.asking.len() >= ASKING_MAX {
                let oldest = self.asking[0];
                lost += self.forget(oldest);
            }
            self.make_room();
            self.asking.push(hop);
            let asking = Neighbor { heard_ns: now_ns, ask_at_ns: Some(now_ns), ..Neighbor::default() };
            self.known.insert(hop, asking);
        }
        let Some(neighbor) = self.known.get_mut(hop) else { return lost };
        if self.held_bytes + frame.len() > HELD_BYTES_MAX {
            return lost + 1;
        }
        self.held_bytes += frame.len();
        neighbor.held.push_back(Held { frame, segment_bytes });
        if neighbor.held.len() > HELD_FRAMES_MAX
            && let Some(oldest) = neighbor.held.pop_front()
        {
            self.held_bytes -= oldest.frame.len();
            lost += 1;
        }
        lost
    }

    /// The next frame whose neighbour has become known.
    pub(super) fn released(&self) -> Option<([u8; 6], &Held)> {
        self.released.front().map(|(mac, held)| (*mac, held))
    }

    pub(super) fn pop_released(&mut self) {
        if let Some((_, held)) = self.released.pop_front() {
            self.held_bytes -= held.frame.len();
        }
    }

    /// A neighbour to ask now, and its MAC if it had one.
    pub(super) fn due(&self, now_ns: i64) -> Option<(IpAddr, Option<[u8; 6]>)> {
        let due = |hop: &&IpAddr| self.known.get(**hop).and_then(|n| n.ask_at_ns).is_some_and(|at| at <= now_ns);
        let hop = *self.asking.iter().find(due)?;
        Some((hop, self.known.get(hop).and_then(|neighbor| neighbor.mac)))
    }

    /// `hop` has been asked.
    pub(super) fn asked(&mut self, hop: IpAddr, now_ns: i64) {
        if let Some(neighbor) = self.known.get_mut(hop) {
            neighbor.asks += 1;
            neighbor.ask_at_ns = Some(now_ns + ASK_NS);
        }
    }

    /// Forgets who was asked often enough. Returns how many frames were given up.
    pub(super) fn expire(&mut self, now_ns: i64) -> u64 {
        let silent = |hop: &&IpAddr| {
            self.known.get(**hop).is_some_and(|n| n.asks >= ASKS_MAX && n.ask_at_ns.is_some_and(|at| at <= now_ns))
        };
        let silent: Vec<IpAddr> = self.asking.iter().filter(silent).copied().collect();
        silent.into_iter().map(|hop| self.forget(hop)).sum()
    }

    pub(super) fn deadline(&self) -> Option<i64> {
        if !self.released.is_empty() {
            return Some(i64::MIN);
        }
        self.asking.iter().filter_map(|hop| self.known.get(*hop)?.ask_at_ns).min()
    }

    fn make_room(&mut self) {
        if self.known.0.len() < NEIGHBORS_MAX {
            return;
        }
        let oldest = self.known.0.iter().min_by_key(|(_, neighbor)| neighbor.heard_ns).map(|(hop, _)| *hop);
        if let Some(oldest) = oldest {
            self.forget(oldest);
        }
    }

    fn forget(&mut self, hop: IpAddr) -> u64 {
        self.last = None;
        self.asking.retain(|asking| *asking != hop);
        let held = self.known.remove(hop).map(|neighbor| neighbor.held).unwrap_or_default();
        self.held_bytes -= held.iter().map(|held| held.frame.len()).sum::<usize>();
        held.len() as u64
    }
}

impl Known {
    fn get(&self, hop: IpAddr) -> Option<&Neighbor> {
        self.place(hop).ok().map(|place| &*self.0[place].1)
    }

    fn get_mut(&mut self, hop: IpAddr) -> Option<&mut Neighbor> {
        self.place(hop).ok().map(|place| &mut *self.0[place].1)
    }

    fn insert(&mut self, hop: IpAddr, neighbor: Neighbor) {
        if let Err(place) = self.place(hop) {
            self.0.insert(place, (hop, Box::new(neighbor)));
        }
    }

    fn remove(&mut self, hop: IpAddr) -> Option<Box<Neighbor>> {
        self.place(hop).ok().map(|place| self.0.remove(place).1)
    }

    fn place(&self, hop: IpAddr) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.cmp(&hop))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn hop(last: u16) -> IpAddr {
        let [high, low] = last.to_be_bytes();
        [10, 0, high, low].into()
    }

    #[test]
    fn a_held_frame_leaves_once_the_neighbor_answers() {
        let mut neighbors = Neighbors::default();
        assert_eq!(neighbors.hold(hop(1), vec![0; 60], 0, 5), 0);
        assert_eq!(neighbors.due(5), Some((hop(1), None)));
        neighbors.asked(hop(1), 5);
        assert_eq!((neighbors.due(5), neighbors.deadline()), (None, Some(5 + ASK_NS)));
        neighbors.learn(hop(1), MAC, false, true, 6);
        assert_eq!(neighbors.released().unwrap().0, MAC);
        neighbors.pop_released();
        assert_eq!((neighbors.held_bytes, neighbors.deadline()), (0, None));
        assert_eq!(neighbors.lookup(hop(1), 7), Some(MAC));
    }

    #[test]
    fn who_never_answers_is_given_up() {
        let mut neighbors = Neighbors::default();
        for _ in 0..HELD_FRAMES_MAX {
            assert_eq!(neighbors.hold(hop(1), vec![0; 60], 0, 0), 0);
        }
        assert_eq!(neighbors.hold(hop(1), vec![0; 60], 0, 0), 1, "the oldest makes room");
        for second in 0..i64::from(ASKS_MAX) {
            assert_eq!(neighbors.expire(second * ASK_NS), 0);
            assert_eq!(neighbors.due(second * ASK_NS), Some((hop(1), None)));
            neighbors.asked(hop(1), second * ASK_NS);
        }
        assert_eq!(neighbors.expire(i64::from(ASKS_MAX) * ASK_NS), HELD_FRAMES_MAX as u64);
        assert_eq!((neighbors.known.0.len(), neighbors.held_bytes), (0, 0));
    }

    #[test]
    fn a_silent_neighbor_is_asked_and_used_meanwhile() {
        let mut neighbors = Neighbors::default();
        neighbors.learn(hop(1), MAC, true, true, 0);
        assert_eq!(neighbors.lookup(hop(1), FRESH_NS - 1), Some(MAC));
        assert_eq!(neighbors.due(FRESH_NS), None);
        assert_eq!(neighbors.lookup(hop(1), FRESH_NS), Some(MAC));
        assert_eq!(neighbors.due(FRESH_NS), Some((hop(1), Some(MAC))));
        neighbors.confirm(hop(1), MAC, FRESH_NS + 1);
        assert_eq!((neighbors.due(i64::MAX), neighbors.asking.len()), (None, 0));
    }

    #[test]
    fn a_known_mac_is_not_replaced_by_hearsay() {
        let mut neighbors = Neighbors::default();
        let other = [2, 0, 0, 0, 0, 10];
        neighbors.learn(hop(1), MAC, false, true, 0);
        assert_eq!(neighbors.lookup(hop(1), 0), None, "strangers are not remembered");
        neighbors.learn(hop(1), MAC, true, true, 0);
        neighbors.learn(hop(1), other, false, false, 1);
        assert_eq!(neighbors.lookup(hop(1), 1), Some(MAC));
        neighbors.learn(hop(1), other, false, true, 2);
        assert_eq!(neighbors.lookup(hop(1), 2), Some(other));
    }

    #[test]
    fn floods_stay_within_limits() {
        let mut neighbors = Neighbors::default();
        for last in 0..3000 {
            neighbors.learn(hop(last), MAC, true, true, i64::from(last));
            neighbors.hold(hop(last + 10_000), vec![0; 9000], 0, i64::from(last));
            assert!(neighbors.known.0.len() <= NEIGHBORS_MAX && neighbors.asking.len() <= ASKING_MAX);
            assert!(neighbors.held_bytes <= HELD_BYTES_MAX);
        }
        let held: usize = neighbors.known.0.iter().flat_map(|(_, n)| &n.held).map(|held| held.frame.len()).sum();
        assert_eq!(held, neighbors.held_bytes);
    }
}
