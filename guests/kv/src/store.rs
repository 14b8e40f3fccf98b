//! The items: looked up by key, bounded in memory, the least recently used evicted first.
//!
//! An item's place in the order of use is refreshed at most once in [`REFRESH_INTERVAL_NS`]: reads of hot keys then
//! write no memory, which keeps a busy guest cheap to migrate.

use std::collections::HashMap;
use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::rc::Rc;

use crate::clock::{Deadline, Now};
use crate::slab::{Slab, Slot};
use crate::stats::Stats;

/// What an item costs beside its key and value: its entry, its place in the index, and what the allocator adds.
pub const ITEM_OVERHEAD_BYTES: usize = 96;
/// How long an item that was used counts as just used.
pub const REFRESH_INTERVAL_NS: u64 = 1_000_000_000;

/// How much a store may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All items together, overhead included.
    pub memory_bytes: usize,
    /// One item, overhead included.
    pub item_bytes: usize,
}

/// A stored value.
#[derive(Debug)]
pub struct Item {
    key: Rc<[u8]>,
    /// The value.
    pub data: Box<[u8]>,
    /// The client's own flags.
    pub flags: u32,
    /// Changes whenever the item does.
    pub cas: u64,
    deadline: Deadline,
    used_ns: u64,
}

impl Item {
    fn bytes(&self) -> usize {
        item_bytes(&self.key, self.data.len())
    }
}

/// What an item of that key and value length costs.
pub fn item_bytes(key: &[u8], data_bytes: usize) -> usize {
    data_bytes.saturating_add(key.len() + ITEM_OVERHEAD_BYTES)
}

/// The storage commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Stores.
    Set,
    /// Stores what is not there yet.
    Add,
    /// Stores what is there already.
    Replace,
    /// Adds to the end of what is there.
    Append,
    /// Adds to the start of what is there.
    Prepend,
    /// Stores where the item is still the one with that [`Item::cas`].
    Cas(u64),
}

/// What became of a storage command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It was done.
    Stored,
    /// Its condition did not hold.
    NotStored,
    /// `cas`: someone else changed the item.
    Exists,
    /// `cas`: there is no such item.
    NotFound,
    /// The item would be over [`Limits::item_bytes`].
    TooLarge,
    /// The item would be over [`Limits::memory_bytes`].
    OutOfMemory,
}

/// Why a number was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArithmeticError {
    /// There is no such item.
    NotFound,
    /// The item is not a decimal number of 64 bits.
    NotANumber,
}

/// All items of a server.
#[derive(Debug)]
pub struct Store {
    limits: Limits,
    index: HashMap<Rc<[u8]>, Slot, KeyHash>,
    items: Slab<Item>,
    bytes: usize,
    cas_last: u64,
    flush: Deadline,
    /// What happened so far.
    pub stats: Stats,
}

impl Store {
    /// An empty store. The seed keeps clients from choosing keys that collide.
    pub fn new(limits: Limits, seed: [u64; 2]) -> Self {
        Self {
            limits,
            index: HashMap::with_hasher(KeyHash(seed)),
            items: Slab::new(),
            bytes: 0,
            cas_last: 0,
            flush: Deadline::NEVER,
            stats: Stats::default(),
        }
    }

    /// How much it may hold.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Items in it, expired ones that nobody asked for included.
    pub fn items(&self) -> usize {
        self.items.len()
    }

    /// What they cost.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Does what is due; to be called before each command.
    pub fn advance(&mut self, now: Now) {
        if self.flush.passed(now) {
            self.flush = Deadline::NEVER;
            self.index.clear();
            self.items = Slab::new();
            self.bytes = 0;
        }
    }

    /// Removes everything at that time. Only the last call counts.
    pub fn flush(&mut self, at: Deadline) {
        self.flush = at;
    }

    /// The item of that key.
    pub fn find(&mut self, key: &[u8], now: Now) -> Option<&Item> {
        let slot = self.lookup(key, now)?;
        self.refresh(slot, now);
        Some(self.items.value(slot))
    }

    /// Gives an item another expiry time.
    pub fn touch(&mut self, key: &[u8], deadline: Deadline, now: Now) -> Option<&Item> {
        let slot = self.lookup(key, now)?;
        self.refresh(slot, now);
        let item = self.items.value_mut(slot);
        item.deadline = deadline;
        Some(item)
    }

    /// Removes an item; false where there is none.
    pub fn delete(&mut self, key: &[u8], now: Now) -> bool {
        let slot = self.lookup(key, now);
        slot.map(|slot| self.remove(slot)).is_some()
    }

    /// Carries out a storage command.
    pub fn store(&mut self, verb: Verb, key: &[u8], data: Vec<u8>, flags: u32, deadline: Deadline, now: Now) -> Stored {
        let known = self.lookup(key, now);
        let (data, flags, deadline) = match (verb, known) {
            (Verb::Add, Some(slot)) => {
                self.refresh(slot, now);
                return Stored::NotStored;
            }
            (Verb::Replace | Verb::Append | Verb::Prepend, None) => return Stored::NotStored,
            (Verb::Cas(_), None) => return Stored::NotFound,
            (Verb::Cas(cas), Some(slot)) if self.items.value(slot).cas != cas => return Stored::Exists,
            (Verb::Append | Verb::Prepend, Some(slot)) => {
                let item = self.items.value(slot);
                if item_bytes(key, item.data.len() + data.len()) > self.limits.item_bytes {
                    return Stored::TooLarge;
                }
                let joined =
                    if verb == Verb::Append { [&item.data[..], &data] } else { [&data, &item.data[..]] }.concat();
                (joined, item.flags, item.deadline)
            }
            (Verb::Set | Verb::Add | Verb::Replace | Verb::Cas(_), _) => (data, flags, deadline),
        };
        if let Err(refused) = self.admits(key, data.len()) {
            return refused;
        }
        self.put(known, key, data.into(), flags, deadline, now);
        Stored::Stored
    }

    /// Whether an item of that size may be stored at all.
    pub fn admits(&self, key: &[u8], data_bytes: usize) -> Result<(), Stored> {
        match item_bytes(key, data_bytes) {
            bytes if bytes > self.limits.item_bytes => Err(Stored::TooLarge),
            bytes if bytes > self.limits.memory_bytes => Err(Stored::OutOfMemory),
            _ => Ok(()),
        }
    }

    /// Adds to a number (wrapping at 64 bits) or takes from it (never below zero); returns the new one.
    pub fn arithmetic(&mut self, key: &[u8], delta: u64, up: bool, now: Now) -> Result<u64, ArithmeticError> {
        let slot = self.lookup(key, now).ok_or(ArithmeticError::NotFound)?;
        let item = self.items.value(slot);
        let number = parse_number(&item.data).ok_or(ArithmeticError::NotANumber)?;
        let number = if up { number.wrapping_add(delta) } else { number.saturating_sub(delta) };
        let (flags, deadline) = (item.flags, item.deadline);
        // As memcached does it: a number that loses a digit keeps its length, with spaces after it.
        let text = format!("{number:<width$}", width = item.data.len());
        self.put(Some(slot), key, text.into_bytes().into(), flags, deadline, now);
        Ok(number)
    }

    /// The slot of a key that has not expired.
    fn lookup(&mut self, key: &[u8], now: Now) -> Option<Slot> {
        let slot = *self.index.get(key)?;
        if self.items.value(slot).deadline.passed(now) {
            self.remove(slot);
            self.stats.expired_found += 1;
            return None;
        }
        Some(slot)
    }

    fn refresh(&mut self, slot: Slot, now: Now) {
        if now.ns.saturating_sub(self.items.value(slot).used_ns) >= REFRESH_INTERVAL_NS {
            self.items.touch(slot);
            self.items.value_mut(slot).used_ns = now.ns;
        }
    }

    /// Puts an admitted item in, in place of the one in `known`, and makes room.
    fn put(&mut self, known: Option<Slot>, key: &[u8], data: Box<[u8]>, flags: u32, deadline: Deadline, now: Now) {
        self.cas_last += 1;
        let cas = self.cas_last;
        self.bytes += item_bytes(key, data.len());
        if let Some(slot) = known {
            let item = self.items.value_mut(slot);
            self.bytes -= item.bytes();
            *item = Item { key: item.key.clone(), data, flags, cas, deadline, used_ns: now.ns };
            self.items.touch(slot);
        } else {
            let key: Rc<[u8]> = key.into();
            let slot = self.items.insert(Item { key: key.clone(), data, flags, cas, deadline, used_ns: now.ns });
            self.index.insert(key, slot);
            self.stats.items_total += 1;
        }
        // The new item is the last to be evicted, and it fits: it was admitted.
        while self.bytes > self.limits.memory_bytes {
            let oldest = self.items.oldest().expect("a store over its limit holds something");
            self.remove(oldest);
            self.stats.evictions += 1;
        }
    }

    fn remove(&mut self, slot: Slot) {
        let item = self.items.remove(slot);
        self.index.remove(&item.key);
        self.bytes -= item.bytes();
    }
}

/// A number as memcached reads it: digits, up to the end or white space. After the space that a number which lost a
/// digit has there, anything may have been appended.
fn parse_number(data: &[u8]) -> Option<u64> {
    let digits = data.trim_ascii_start().split(u8::is_ascii_whitespace).next()?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// SipHash behind a secret prefix: the keys of the standard library's hasher are fixed inside a guest.
#[derive(Clone, Debug)]
struct KeyHash([u64; 2]);

impl BuildHasher for KeyHash {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0[0]);
        hasher.write_u64(self.0[1]);
        hasher
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { memory_bytes: 10 * (ITEM_OVERHEAD_BYTES + 10), item_bytes: 400 };

    fn at(seconds: u64) -> Now {
        Now { ns: seconds * 1_000_000_000, unix_s: 1_700_000_000 + seconds }
    }

    fn store() -> Store {
        Store::new(LIMITS, [1, 2])
    }

    fn set(store: &mut Store, key: &str, data: &str, now: Now) -> Stored {
        store.store(Verb::Set, key.as_bytes(), data.into(), 0, Deadline::NEVER, now)
    }

    fn data(store: &mut Store, key: &str, now: Now) -> Option<String> {
        store.find(key.as_bytes(), now).map(|item| String::from_utf8_lossy(&item.data).into_owned())
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut store = store();
        for key in 0..10 {
            assert_eq!(set(&mut store, &key.to_string(), "123456789", at(0)), Stored::Stored);
        }
        assert_eq!((store.items(), store.bytes()), (10, LIMITS.memory_bytes));
        assert!(data(&mut store, "0", at(5)).is_some());
        set(&mut store, "a", "123456789", at(5));
        assert_eq!((store.items(), store.stats.evictions), (10, 1));
        assert!(data(&mut store, "0", at(5)).is_some());
        assert!(data(&mut store, "1", at(5)).is_none());
    }

    #[test]
    fn a_large_item_evicts_many_but_not_itself() {
        let mut store = store();
        for key in 0..10 {
            set(&mut store, &key.to_string(), "123456789", at(0));
        }
        assert_eq!(set(&mut store, "0", &"x".repeat(300), at(0)), Stored::Stored);
        assert!(store.bytes() <= LIMITS.memory_bytes);
        assert_eq!(data(&mut store, "0", at(0)), Some("x".repeat(300)));
        assert_eq!(set(&mut store, "0", &"x".repeat(304), at(0)), Stored::TooLarge);
    }

    #[test]
    fn bytes_are_given_back() {
        let mut store = store();
        set(&mut store, "a", "1", at(0));
        set(&mut store, "a", "12345", at(0));
        assert_eq!(store.bytes(), item_bytes(b"a", 5));
        store.touch(b"a", Deadline::from_exptime(3, at(0)), at(0));
        assert!(data(&mut store, "a", at(3)).is_none());
        set(&mut store, "b", "1", at(0));
        assert!(store.delete(b"b", at(0)));
        assert!(!store.delete(b"b", at(0)));
        assert_eq!((store.items(), store.bytes()), (0, 0));
    }

    #[test]
    fn numbers_wrap_up_and_stop_at_zero() {
        let mut store = store();
        set(&mut store, "n", "18446744073709551615", at(0));
        assert_eq!(store.arithmetic(b"n", 2, true, at(0)), Ok(1));
        assert_eq!(store.arithmetic(b"n", 2, false, at(0)), Ok(0));
        assert_eq!(store.arithmetic(b"m", 2, false, at(0)), Err(ArithmeticError::NotFound));
        for junk in ["", "x", "-1", "1x", "18446744073709551616", "+1"] {
            set(&mut store, "n", junk, at(0));
            assert_eq!(store.arithmetic(b"n", 1, true, at(0)), Err(ArithmeticError::NotANumber), "{junk}");
        }
        for number in ["12  ", "12 x", " 12"] {
            set(&mut store, "n", number, at(0));
            assert_eq!(store.arithmetic(b"n", 1, true, at(0)), Ok(13));
        }
    }

    #[test]
    fn flushes_happen_when_they_are_due() {
        let mut store = store();
        store.flush(Deadline::from_exptime(5, at(0)));
        set(&mut store, "a", "1", at(1));
        store.advance(at(4));
        assert!(data(&mut store, "a", at(4)).is_some());
        store.advance(at(5));
        assert!(data(&mut store, "a", at(5)).is_none());
        set(&mut store, "a", "1", at(5));
        store.advance(at(6));
        assert!(data(&mut store, "a", at(6)).is_some());
    }
}
