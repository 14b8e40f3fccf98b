//! Both trackers on the memory of another process.

use super::*;
use crate::digest::Digest;
use crate::page::{MemoryIndex, PAGE_BYTES, PageIndex, PageRange, Shape};
use crate::sys::child::{Child, Do};
use crate::sys::pagemap::{Pagemap, swaps};
use nix::unistd::Pid;
use std::os::fd::OwnedFd;

const PAGES: u64 = 64;
const MAPPED: u64 = 4 * PAGES;
/// Pages of the module's image.
const IMAGE: usize = 8;
const MEMORY: MemoryIndex = MemoryIndex(2);

/// A guest in a child, tracked one way, and what was sent of it.
struct Guest {
    child: Child,
    tracker: Box<dyn Tracker>,
    sent: Digest,
    bytes: u64,
}

impl Guest {
    fn new(quick: bool) -> Option<Self> {
        let image = vec![7; IMAGE * PAGE_BYTES];
        let page = PAGE_BYTES as u64;
        let child = Child::new(&image, (PAGES * page) as usize, (MAPPED * page) as usize)?;
        let choice = choose(child.pid, quick.then(|| child.userfault_file()));
        assert_eq!(choice.untracked.is_none(), quick, "{choice}");
        let mut guest = Self { child, tracker: choice.tracker, sent: Digest::default(), bytes: PAGES * page };
        guest.sent.grow(&Shape(vec![0, 0, MAPPED as u32]));
        // What the target's fresh memory has.
        let range = PageRange { memory: MEMORY, first: PageIndex(0), count: IMAGE as u32 };
        guest.sent.set_range(range, &image, |_| ());
        Some(guest)
    }

    /// One each way; none where the kernel lacks what it takes.
    fn both() -> Vec<Self> {
        [true, false].into_iter().filter_map(Self::new).collect()
    }

    fn region(&self) -> Region {
        let mapped_bytes = MAPPED * PAGE_BYTES as u64;
        Region { memory: MEMORY, address: self.child.address, bytes: self.bytes, mapped_bytes }
    }

    fn arm(&mut self) {
        self.tracker.arm(&[self.region()]).unwrap();
    }

    fn grow(&mut self, pages: u64) {
        let (old, new) = (self.bytes, pages * PAGE_BYTES as u64);
        self.child.run(Do::Allow, self.child.address + old, new - old, 0, 0);
        self.bytes = new;
        self.tracker.resize(MEMORY, new).unwrap();
    }

    fn look(&mut self) -> Vec<u32> {
        let mut set = PageSet::default();
        self.tracker.look(&self.sent, &mut set).unwrap();
        pages(&set)
    }

    /// Collects, and sends what that told of.
    fn send(&mut self) -> Vec<u32> {
        let mut set = PageSet::default();
        self.tracker.collect(&self.sent, &mut set).unwrap();
        for range in set.ranges(1) {
            let mut bytes = [0; PAGE_BYTES];
            self.child.memory().read(self.child.address + range.offset(), &mut bytes).unwrap();
            self.sent.set_range(range, &bytes, |_| ());
        }
        pages(&set)
    }
}

fn pages(set: &PageSet) -> Vec<u32> {
    set.ranges(1).inspect(|range| assert_eq!(range.memory, MEMORY)).map(|range| range.first.0).collect()
}

/// A test that says which pages are left out holds where the kernel can say so.
fn skipped() -> bool {
    let swaps = swaps();
    if swaps {
        eprintln!("skipped: this machine swaps, so pages that are not in memory are not left out");
    }
    swaps
}

#[test]
fn rounds_tell_of_what_was_written() {
    for mut guest in Guest::both().into_iter().filter(|_| !skipped()) {
        // Before it is armed: a page of the image and others were written, some were only read.
        guest.child.run(Do::Read, guest.child.address + (IMAGE * PAGE_BYTES) as u64, 20, PAGE_BYTES as u64, 0);
        guest.child.write_each(&[3, 30, 31], 9);
        guest.arm();
        assert_eq!(guest.look(), [3, 30, 31]);
        assert_eq!(guest.look(), [3, 30, 31]);
        assert_eq!(guest.send(), [3, 30, 31]);
        assert_eq!(guest.send(), []);
        guest.child.write_each(&[5, 31, 63], 10);
        assert_eq!(guest.look(), [5, 31, 63]);
        assert_eq!(guest.send(), [5, 31, 63]);
        assert_eq!(guest.look(), []);
        guest.tracker.disarm().unwrap();
        guest.tracker.disarm().unwrap();
    }
}

#[test]
fn a_page_of_the_image_that_became_zero_is_told_of() {
    for mut guest in Guest::both() {
        guest.child.run(Do::Write, guest.child.address, PAGE_BYTES as u64, 1, 0);
        guest.arm();
        assert!(guest.look().contains(&0));
        assert!(guest.send().contains(&0));
        assert_eq!(guest.look(), []);
    }
}

#[test]
fn memories_grow_while_they_are_tracked() {
    for mut guest in Guest::both().into_iter().filter(|_| !skipped()) {
        guest.arm();
        guest.send();
        guest.grow(PAGES + 20);
        guest.child.write_each(&[1, 70], 1);
        assert_eq!(guest.look(), [1, 70]);
        assert_eq!(guest.send(), [1, 70]);
        guest.child.write_each(&[71, 72], 1);
        assert_eq!(guest.send(), [71, 72]);
        // In the last moment: nobody collects before the last look.
        guest.grow(MAPPED);
        guest.child.write(MAPPED - 1, 1);
        assert_eq!(guest.look(), [MAPPED as u32 - 1]);
    }
}

/// A page that is written back to what it was before the round, after it was collected and sent otherwise.
#[test]
fn what_changes_while_it_is_sent_is_told_of_again() {
    for mut guest in Guest::both() {
        guest.child.write(40, 1);
        guest.arm();
        guest.tracker.collect(&guest.sent, &mut PageSet::default()).unwrap();
        guest.child.write(40, 2);
        let mut bytes = [0; PAGE_BYTES];
        guest.child.memory().read(guest.child.address + 40 * PAGE_BYTES as u64, &mut bytes).unwrap();
        let range = PageRange { memory: MEMORY, first: PageIndex(40), count: 1 };
        guest.sent.set_range(range, &bytes, |_| ());
        guest.child.write(40, 1);
        assert_eq!(guest.look(), [40]);
        assert_eq!(guest.send(), [40]);
    }
}

/// The guest writes all the while; in the end, after the last look, the copy is the same.
#[test]
fn a_copy_of_a_busy_guest_is_the_same_in_the_end() {
    for (quick, seed) in [(true, 1), (true, 2), (true, 3), (false, 4)] {
        let Some(mut guest) = Guest::new(quick) else { continue };
        let address = guest.child.address;
        guest.child.write_each(&[0, 9, 40], 1);
        guest.arm();
        guest.child.begin(Do::Storm, address, 1_000_000, PAGES, seed);
        let mut copy = vec![0; guest.bytes as usize];
        copy[..IMAGE * PAGE_BYTES].fill(7);
        let mut log = DirtyLog::default();
        for round in 0..200 {
            let last = round == 199;
            if last {
                guest.child.answer();
                guest.tracker.look(&guest.sent, log.dirty()).unwrap();
            } else {
                guest.tracker.collect(&guest.sent, log.dirty()).unwrap();
            }
            for range in log.take().ranges(16) {
                let bytes = &mut copy[range.offset() as usize..][..range.bytes() as usize];
                guest.child.memory().read(address + range.offset(), bytes).unwrap();
                guest.sent.set_range(range, bytes, |_| ());
            }
            if round % 3 == 0 { log.roll_back() } else { log.commit() }
        }
        let mut memory = vec![0; copy.len()];
        guest.child.memory().read(address, &mut memory).unwrap();
        assert!(memory == copy, "seed {seed}, quick: {quick}");
    }
}

/// A daemon that was ended leaves a worker armed; the next one starts from nothing all the same.
#[test]
fn arming_begins_anew() {
    for mut guest in Guest::both() {
        guest.child.write(40, 1);
        guest.arm();
        assert!(guest.send().contains(&40));
        let mut other = choose(guest.child.pid, Some(guest.child.userfault_file())).tracker;
        other.arm(&[guest.region()]).unwrap();
        let mut set = PageSet::default();
        other.collect(&Digest::default(), &mut set).unwrap();
        assert!(set.contains(MEMORY, PageIndex(40)));
        guest.arm();
        guest.sent = Digest::default();
        assert!(guest.look().contains(&40));
    }
}

#[test]
fn what_cannot_be_is_refused_and_disarms() {
    for mut guest in Guest::both() {
        let page = PAGE_BYTES as u64;
        let good = guest.region();
        for bad in [
            Region { address: good.address + 1, ..good },
            Region { bytes: page - 1, ..good },
            Region { bytes: good.mapped_bytes + page, ..good },
            Region { mapped_bytes: u64::MAX - page + 1, ..good },
            Region { memory: MemoryIndex(8), ..good },
        ] {
            assert!(matches!(guest.tracker.arm(&[good, bad]), Err(TrackError::Region(_))), "{bad:?}");
        }
        assert!(matches!(guest.tracker.arm(&[good; 9]), Err(TrackError::Regions(9))));
        let unarmed = |guest: &mut Guest| guest.tracker.look(&guest.sent, &mut PageSet::default());
        assert!(matches!(unarmed(&mut guest), Err(TrackError::NotArmed)));
        assert!(matches!(guest.tracker.resize(MEMORY, page), Err(TrackError::NotArmed)));
        for bytes in [good.bytes - page, good.mapped_bytes + page] {
            guest.arm();
            assert!(matches!(guest.tracker.resize(MEMORY, bytes), Err(TrackError::Region(_))));
            assert!(matches!(unarmed(&mut guest), Err(TrackError::NotArmed)));
        }
    }
}

/// However a tracker ends, the kernel no longer tracks anything.
#[test]
fn nothing_stays_registered() {
    let Some(mut guest) = Guest::new(true) else { return };
    let mut pagemap = Pagemap::open(guest.child.pid).unwrap();
    let (start, end) = (guest.child.address, guest.child.address + guest.bytes);
    let mut tracked = || pagemap.look(start, end, |_, _| ()).is_ok();
    guest.arm();
    assert!(tracked());
    guest.tracker.disarm().unwrap();
    assert!(!tracked());
    // A memory that is not there, after one that is.
    let missing = Region { memory: MemoryIndex(3), address: 1 << 20, ..guest.region() };
    assert!(matches!(guest.tracker.arm(&[guest.region(), missing]), Err(TrackError::Register { .. })));
    assert!(!tracked());
    guest.arm();
    assert!(guest.tracker.resize(MEMORY, 0).is_err());
    assert!(!tracked());
    guest.arm();
    drop(guest.tracker);
    assert!(!tracked());
}

#[test]
fn a_large_memory_is_disarmed_to_its_end() {
    let (bytes, mapped_bytes, mib) = (10 << 20, 12 << 20, 1 << 20);
    let Some(child) = Child::new(&[], bytes as usize, mapped_bytes as usize) else { return };
    let mut tracker = choose(child.pid, Some(child.userfault_file())).tracker;
    let mut pagemap = Pagemap::open(child.pid).unwrap();
    let mut tracked = || {
        let starts = (child.address..child.address + mapped_bytes).step_by(mib);
        starts.filter(|&start| pagemap.look(start, start + mib as u64, |_, _| ()).is_ok()).count()
    };
    tracker.arm(&[Region { memory: MEMORY, address: child.address, bytes, mapped_bytes }]).unwrap();
    assert_eq!(tracked(), 12);
    tracker.disarm().unwrap();
    assert_eq!(tracked(), 0);
}

#[test]
fn an_ended_guest_is_an_error() {
    for mut guest in Guest::both() {
        guest.arm();
        guest.child.end();
        let mut set = PageSet::default();
        assert!(guest.tracker.collect(&guest.sent, &mut set).is_err());
        assert!(matches!(guest.tracker.look(&guest.sent, &mut set), Err(TrackError::NotArmed)));
        guest.tracker.disarm().unwrap();
    }
}

#[test]
fn the_choice_says_why() {
    let choice = choose(Pid::this(), None);
    let said = choice.to_string();
    assert!(said.contains("all memory is read") && said.contains("no userfaultfd"), "{said}");
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let nobody = choose(Pid::from_raw(i32::MAX), Some(file));
    assert!(matches!(nobody.untracked, Some(Untracked::NoScan(_))));
}
