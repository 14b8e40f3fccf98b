//! Items in the order of their last use: a table of slots that doubles as a doubly linked list.

/// Where an item is, until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u32);

const NONE: u32 = u32::MAX;

/// Values of one kind, most recently used first.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: u32,
    newest: u32,
    oldest: u32,
    len: usize,
}

#[derive(Debug)]
struct Entry<T> {
    /// `None` in a free slot, whose `older` is then the next free one.
    value: Option<T>,
    newer: u32,
    older: u32,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { entries: Vec::new(), free: NONE, newest: NONE, oldest: NONE, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds a value as the most recently used.
    pub(crate) fn insert(&mut self, value: T) -> Slot {
        let entry = Entry { value: Some(value), newer: NONE, older: NONE };
        let slot = if self.free == NONE {
            self.entries.push(entry);
            // A 4 GiB memory has no room for that many entries.
            u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 items fit in memory")
        } else {
            let slot = self.free;
            self.free = std::mem::replace(&mut self.entries[slot as usize], entry).older;
            slot
        };
        self.len += 1;
        self.link_newest(slot);
        Slot(slot)
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, slot: Slot) -> T {
        self.unlink(slot.0);
        let entry = &mut self.entries[slot.0 as usize];
        entry.older = self.free;
        self.free = slot.0;
        self.len -= 1;
        entry.value.take().expect("a slot is removed once")
    }

    /// Makes a value the most recently used.
    pub(crate) fn touch(&mut self, slot: Slot) {
        if self.newest != slot.0 {
            self.unlink(slot.0);
            self.link_newest(slot.0);
        }
    }

    /// The least recently used value, if there is any.
    pub(crate) fn oldest(&self) -> Option<Slot> {
        (self.oldest != NONE).then_some(Slot(self.oldest))
    }

    pub(crate) fn value(&self, slot: Slot) -> &T {
        self.entries[slot.0 as usize].value.as_ref().expect("a slot is used until it is removed")
    }

    pub(crate) fn value_mut(&mut self, slot: Slot) -> &mut T {
        self.entries[slot.0 as usize].value.as_mut().expect("a slot is used until it is removed")
    }

    fn link_newest(&mut self, slot: u32) {
        let older = std::mem::replace(&mut self.newest, slot);
        self.entries[slot as usize].newer = NONE;
        self.entries[slot as usize].older = older;
        match older {
            NONE => self.oldest = slot,
            older => self.entries[older as usize].newer = slot,
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Entry { newer, older, .. } = self.entries[slot as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(mut slab: Slab<u32>) -> Vec<u32> {
        std::iter::from_fn(|| slab.oldest().map(|slot| slab.remove(slot))).collect()
    }

    #[test]
    fn the_least_recently_used_comes_first() {
        let mut slab = Slab::new();
        let slots: Vec<Slot> = (0..4).map(|value| slab.insert(value)).collect();
        slab.touch(slots[0]);
        slab.remove(slots[2]);
        slab.insert(9);
        assert_eq!(slab.entries.len(), 4);
        assert_eq!(drain(slab), [1, 3, 0, 9]);
    }

    proptest! {
        // The slab against a plain vector that is kept in order of use.
        #[test]
        fn any_sequence_keeps_the_order(steps in prop::collection::vec((0..3u8, any::<prop::sample::Index>()), 0..200)) {
            let mut slab = Slab::new();
            let mut model: Vec<(Slot, u32)> = Vec::new();
            for (number, (step, index)) in steps.into_iter().enumerate() {
                if step == 0 || model.is_empty() {
                    model.push((slab.insert(number as u32), number as u32));
                    continue;
                }
                let (slot, value) = model.remove(index.index(model.len()));
                if step == 1 {
                    prop_assert_eq!(slab.remove(slot), value);
                } else {
                    slab.touch(slot);
                    model.push((slot, value));
                }
            }
            prop_assert_eq!(slab.len(), model.len());
            prop_assert_eq!(drain(slab), model.into_iter().map(|(_, value)| value).collect::<Vec<_>>());
        }
    }
}
