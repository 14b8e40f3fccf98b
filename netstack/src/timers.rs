//! One timer a socket, the earliest first.

use alloc::vec::Vec;

use crate::socket::Index;

/// A binary heap that knows where each socket's timer is, so that timers are moved, not left behind.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: Vec<(i64, Index)>,
    /// The place in the heap of each socket's timer, or [`NOWHERE`].
    places: Vec<u32>,
}

const NOWHERE: u32 = u32::MAX;

impl Timers {
    /// When the first timer is due, and whose it is.
    pub(crate) fn first(&self) -> Option<(i64, Index)> {
        self.heap.first().copied()
    }

    /// When the socket's timer is due.
    pub(crate) fn due_ns(&self, index: Index) -> Option<i64> {
        self.place(index).map(|place| self.heap[place].0)
    }

    /// Sets the socket's timer.
    pub(crate) fn set(&mut self, index: Index, at_ns: i64) {
        let place = match self.place(index) {
            Some(place) => {
                self.heap[place].0 = at_ns;
                place
            }
            None => {
                if self.places.len() <= index as usize {
                    self.places.resize(index as usize + 1, NOWHERE);
                }
                self.heap.push((at_ns, index));
                self.heap.len() - 1
            }
        };
        self.sift(place);
    }

    /// Removes the socket's timer, if it has one.
    pub(crate) fn clear(&mut self, index: Index) {
        let Some(place) = self.place(index) else { return };
        self.heap.swap_remove(place);
        self.places[index as usize] = NOWHERE;
        if place < self.heap.len() {
            self.sift(place);
        }
    }

    fn place(&self, index: Index) -> Option<usize> {
        self.places.get(index as usize).filter(|place| **place != NOWHERE).map(|place| *place as usize)
    }

    /// Moves the timer at `place` to where it belongs.
    fn sift(&mut self, mut place: usize) {
        let timer = self.heap[place];
        while place > 0 && timer < self.heap[(place - 1) / 2] {
            self.put(place, self.heap[(place - 1) / 2]);
            place = (place - 1) / 2;
        }
        loop {
            let mut child = 2 * place + 1;
            if child + 1 < self.heap.len() && self.heap[child + 1] < self.heap[child] {
                child += 1;
            }
            if child >= self.heap.len() || timer <= self.heap[child] {
                break;
            }
            self.put(place, self.heap[child]);
            place = child;
        }
        self.put(place, timer);
    }

    fn put(&mut self, place: usize, timer: (i64, Index)) {
        self.heap[place] = timer;
        self.places[timer.1 as usize] = place as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_earliest_is_always_first(
            steps in prop::collection::vec((0..20u32, prop::option::of(0..50i64)), 1..200),
        ) {
            let (mut timers, mut model) = (Timers::default(), BTreeMap::new());
            for (index, at_ns) in steps {
                match at_ns {
                    Some(at_ns) => {
                        timers.set(index, at_ns);
                        model.insert(index, at_ns);
                    }
                    None => {
                        timers.clear(index);
                        model.remove(&index);
                    }
                }
                prop_assert_eq!(timers.first(), model.iter().map(|(index, at_ns)| (*at_ns, *index)).min());
                for index in 0..20 {
                    prop_assert_eq!(timers.due_ns(index), model.get(&index).copied());
                }
            }
        }
    }
}
