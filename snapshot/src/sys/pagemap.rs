//! Which pages of a process were written: the `PAGEMAP_SCAN` ioctl on `/proc/PID/pagemap`
//! (Documentation/admin-guide/mm/pagemap.rst). Linux 6.7.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc;
use nix::unistd::Pid;

use crate::page::PAGE_BYTES;

/// Regions one call can tell of. A later call costs more than room that stays unused.
const REGIONS_MAX: usize = 2048;
/// `PAGE_IS_WRITTEN`.
const WRITTEN: u64 = 1 << 1;
/// `PAGE_IS_PRESENT`.
const PRESENT: u64 = 1 << 3;
/// `PAGE_IS_PFNZERO`.
const ZERO: u64 = 1 << 5;
/// `PM_SCAN_WP_MATCHING`: what is told of is protected in the same act.
const PROTECT: u64 = 1 << 0;
/// `PM_SCAN_CHECK_WPASYNC`: it is an error if a mapping is not tracked.
const CHECK: u64 = 1 << 1;

/// `struct pm_scan_arg`.
#[repr(C)]
struct Arguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_max: u64,
    pages_max: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    told: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

#[allow(unreachable_pub, reason = "the macro's function is public, as far as this module is")]
mod request {
    nix::ioctl_readwrite!(pagemap_scan, b'f', 16, super::Arguments);
}

/// Which pages are asked for, as the kernel wants it: what they shall be, and what of that they shall not be.
struct Query {
    flags: u64,
    all_of: u64,
    inverted: u64,
    told: u64,
}

/// Written since they were protected. The kernel is quickest when it is asked for just this; pages that do not exist
/// and are not protected count as written, too.
const LOOK: Query = Query { flags: CHECK, all_of: WRITTEN, inverted: 0, told: WRITTEN };
/// The same, and protected.
const TAKE: Query = Query { flags: CHECK | PROTECT, ..LOOK };
/// In memory, but not the shared page of zeros. To leave out pages of files, too, takes the kernel thirty times as
/// long.
const PRESENT_PAGES: Query = Query { flags: 0, all_of: PRESENT | ZERO, inverted: ZERO, told: PRESENT };

/// A kernel whose pages are others than [`crate::page`]'s.
#[derive(Debug, thiserror::Error)]
#[error("this kernel's pages have {kernel_bytes} bytes; {PAGE_BYTES} are needed")]
pub struct OtherPages {
    /// What its pages have.
    pub kernel_bytes: i64,
}

/// The page tables of a process.
pub struct Pagemap {
    file: File,
    regions: Vec<Region>,
}

impl Pagemap {
    /// Of the process with that id. Takes the rights to trace it. It stays that process's, whoever gets the id next. If
    /// the error is one of [`io::ErrorKind::Unsupported`], its inner one is [`OtherPages`].
    pub fn open(pid: Pid) -> io::Result<Self> {
        // SAFETY: the call takes a number and touches no memory of ours.
        let kernel_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        if kernel_bytes != PAGE_BYTES as i64 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, OtherPages { kernel_bytes }));
        }
        let file = File::open(format!("/proc/{pid}/pagemap"))?;
        Ok(Self { file, regions: vec![Region::default(); REGIONS_MAX] })
    }

    /// Tells of the pages between two addresses that were written since they were protected, as ranges of addresses in
    /// order, and protects them. Pages that were never protected count as written, also those that do not exist.
    /// `EPERM`: not all of it is tracked; some may have been told of and protected before that was seen. `ESRCH`: the
    /// process has ended.
    ///
    /// Pages that the process drops (`MADV_DONTNEED`) count as written, but for those of a file that it maps privately:
    /// the kernel keeps them protected. Nothing may drop those of a guest.
    pub fn take(&mut self, start: u64, end: u64, found: impl FnMut(u64, u64)) -> io::Result<()> {
        self.scan(&TAKE, start, end, found)
    }

    /// The same, and leaves them as they are. For a process that stands still: cheaper than [`Self::take`], which has
    /// to tell every processor that runs it.
    pub fn look(&mut self, start: u64, end: u64, found: impl FnMut(u64, u64)) -> io::Result<()> {
        self.scan(&LOOK, start, end, found)
    }

    /// Tells of the pages that are in memory and not the shared page of zeros. What was swapped out is not in memory.
    pub fn present(&mut self, start: u64, end: u64, found: impl FnMut(u64, u64)) -> io::Result<()> {
        self.scan(&PRESENT_PAGES, start, end, found)
    }

    fn scan(&mut self, query: &Query, start: u64, end: u64, mut found: impl FnMut(u64, u64)) -> io::Result<()> {
        let mut next = start;
        while next < end {
            let (count, walked) = self.scan_once(query, next, end)?;
            let regions = &self.regions[..count];
            regions.iter().for_each(|region| found(region.start, region.end));
            // Only a call that ran out of room has left anything. `walked` may be too low even so: the kernel goes in
            // steps of 512 regions and keeps where the last but one ended.
            match regions.last() {
                Some(last) if count == self.regions.len() => next = walked.max(last.end),
                _ => break,
            }
        }
        Ok(())
    }

    /// How many regions were told of, and up to where the kernel says it has looked.
    fn scan_once(&mut self, query: &Query, start: u64, end: u64) -> io::Result<(usize, u64)> {
        let mut arguments = Arguments {
            size: size_of::<Arguments>() as u64,
            flags: query.flags,
            start,
            end,
            walk_end: 0,
            regions: self.regions.as_mut_ptr() as u64,
            regions_max: self.regions.len() as u64,
            pages_max: 0,
            inverted: query.inverted,
            all_of: query.all_of,
            any_of: 0,
            told: query.told,
        };
        // SAFETY: the descriptor is open; the kernel reads and writes one `pm_scan_arg`, and at most `regions_max`
        // regions where `regions` points, which are ours alone.
        let count = unsafe { request::pagemap_scan(self.file.as_raw_fd(), &raw mut arguments) }?;
        let count = usize::try_from(count).expect("the kernel counts regions");
        Ok((count, arguments.walk_end))
    }
}

/// Whether this machine may write memory to a swap space: then a page that is not in memory may still have content.
pub fn swaps() -> bool {
    // One line of headings, one a space. Where it cannot be read, who knows.
    std::fs::read_to_string("/proc/swaps").map_or(true, |spaces| spaces.lines().count() > 1)
}

#[cfg(test)]
mod tests {
    use super::super::child::{Child, Do, HUGE};
    use super::*;

    const MIB: usize = 1024 * 1024;
    type Scan = fn(&mut Pagemap, u64, u64, &mut dyn FnMut(u64, u64)) -> io::Result<()>;
    const TAKE: Scan = |map, start, end, found| map.take(start, end, found);
    const LOOK: Scan = |map, start, end, found| map.look(start, end, found);
    const PRESENT_PAGES: Scan = |map, start, end, found| map.present(start, end, found);

    /// Page numbers that a scan of a child's first `bytes` told of, in the order it did.
    fn scan(scan: Scan, map: &mut Pagemap, child: &Child, bytes: usize) -> Vec<u64> {
        let mut pages = Vec::new();
        let page = |address: u64| (address - child.address) / 4096;
        let mut found = |start, end| pages.extend(page(start)..page(end));
        scan(map, child.address, child.address + bytes as u64, &mut found).unwrap();
        pages
    }

    /// A child whose pages were all protected.
    fn protected(
        image: &[u8],
        bytes: usize,
        mapped: usize,
    ) -> Option<(Child, Pagemap, super::super::userfault::Userfault)> {
        let child = Child::new(image, bytes, mapped)?;
        let (userfault, mut map) = (child.userfault(), Pagemap::open(child.pid).unwrap());
        userfault.register(child.address, mapped as u64).unwrap();
        scan(TAKE, &mut map, &child, bytes);
        Some((child, map, userfault))
    }

    #[test]
    fn a_written_page_is_taken_once() {
        let Some((mut child, mut map, _fault)) = protected(&[], MIB, MIB) else { return };
        assert_eq!(scan(LOOK, &mut map, &child, MIB), []);
        child.write_each(&[3, 4, 200], 1);
        child.run(Do::Read, child.address, 256, 4096, 0);
        // By the kernel, or by a debugger.
        child.memory().write(child.address + 100 * 4096, b"there").unwrap();
        assert_eq!(scan(LOOK, &mut map, &child, MIB), [3, 4, 100, 200]);
        assert_eq!(scan(LOOK, &mut map, &child, MIB), [3, 4, 100, 200]);
        assert_eq!(scan(TAKE, &mut map, &child, MIB), [3, 4, 100, 200]);
        assert_eq!(scan(TAKE, &mut map, &child, MIB), []);
        child.write(4, 1);
        assert_eq!(scan(TAKE, &mut map, &child, MIB), [4], "also the byte that was there");
    }

    /// More regions than the kernel has room for in one step, and than fit one call: each page once.
    #[test]
    fn every_region_is_told_of_once() {
        let pages = 3 * REGIONS_MAX as u64;
        for count in
            [511, 512, 513, 1024, 1025, REGIONS_MAX as u64 - 1, REGIONS_MAX as u64, REGIONS_MAX as u64 + 1, pages]
        {
            let bytes = (2 * pages as usize + 1024) * 4096;
            let Some((mut child, mut map, _fault)) = protected(&[], bytes, bytes) else { return };
            child.run(Do::Write, child.address + 4096, count, 8192, 1);
            let written: Vec<u64> = (0..count).map(|index| 2 * index + 1).collect();
            assert_eq!(scan(LOOK, &mut map, &child, bytes), written);
            assert_eq!(scan(TAKE, &mut map, &child, bytes), written);
            assert_eq!(scan(LOOK, &mut map, &child, bytes), []);
        }
    }

    #[test]
    fn a_tail_that_was_registered_may_grow() {
        let Some((mut child, mut map, fault)) = protected(&[], MIB, 4 * MIB) else { return };
        let tail = child.address + MIB as u64;
        child.run(Do::Allow, tail, MIB as u64, 0, 0);
        child.write(300, 1);
        assert!(scan(TAKE, &mut map, &child, 2 * MIB).contains(&300));
        assert_eq!(scan(TAKE, &mut map, &child, 2 * MIB), []);
        // What is not registered is refused, not passed over.
        fault.unregister(tail, 3 * MIB as u64).unwrap();
        let refused = map.take(child.address, child.address + 2 * MIB as u64, |_, _| ()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(nix::libc::EPERM));
    }

    #[test]
    fn what_is_not_in_memory_is_not_present() {
        let image = vec![7; 16 * 4096];
        let bytes = 8 * MIB;
        let Some(mut child) = Child::new(&image, bytes, bytes) else { return };
        let mut map = Pagemap::open(child.pid).unwrap();
        // Read, of the image and of nothing; written, of both. The kernel maps pages of a file together.
        child.run(Do::Read, child.address, 32, 4096, 0);
        child.write_each(&[5, 20, 600], 1);
        let image: Vec<u64> = (0..16).chain([20, 600]).collect();
        assert_eq!(scan(PRESENT_PAGES, &mut map, &child, bytes), image);
    }

    #[test]
    fn an_image_is_tracked_as_other_pages_are() {
        let image = vec![7; 16 * 4096];
        let Some((mut child, mut map, _fault)) = protected(&image, MIB, 2 * MIB) else { return };
        child.run(Do::Read, child.address, 256, 4096, 0);
        assert_eq!(scan(LOOK, &mut map, &child, MIB), [], "reading is not writing");
        child.write_each(&[5, 15, 16], 1);
        assert_eq!(scan(TAKE, &mut map, &child, MIB), [5, 15, 16]);
        assert_eq!(scan(TAKE, &mut map, &child, MIB), []);
    }

    /// As a restored guest's memory is: ranges of a file on a disk, and others between them.
    #[test]
    fn files_on_a_disk_are_tracked_as_other_pages_are() {
        let path = std::env::temp_dir().join(format!("roam-pagemap-{}", std::process::id()));
        std::fs::write(&path, vec![7; 512 * 4096]).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let ranges: Vec<_> = (0..16).map(|range| (range * 32 * 4096, 16 * 4096)).collect();
        let Some(mut child) = Child::mapping(Some(&file), &ranges, 2 * MIB, 4 * MIB) else { return };
        let (fault, mut map) = (child.userfault(), Pagemap::open(child.pid).unwrap());
        assert_eq!(scan(PRESENT_PAGES, &mut map, &child, 2 * MIB), [], "what was never touched is not to be seen");
        for _ in 0..2 {
            fault.register(child.address, 4 * MIB as u64).unwrap();
            scan(TAKE, &mut map, &child, 2 * MIB);
            child.run(Do::Read, child.address, 512, 4096, 0);
            assert_eq!(scan(LOOK, &mut map, &child, 2 * MIB), [], "reading is not writing");
            child.write_each(&[0, 15, 16, 33, 200, 500], 1);
            child.memory().write(child.address + 96 * 4096, b"there").unwrap();
            assert_eq!(scan(TAKE, &mut map, &child, 2 * MIB), [0, 15, 16, 33, 96, 200, 500]);
            assert_eq!(scan(LOOK, &mut map, &child, 2 * MIB), []);
            fault.unregister(child.address, 4 * MIB as u64).unwrap();
        }
        fault.register(child.address, 4 * MIB as u64).unwrap();
        child.run(Do::Allow, child.address + 2 * MIB as u64, MIB as u64, 0, 0);
        scan(TAKE, &mut map, &child, 3 * MIB);
        child.write_each(&[1, 600], 1);
        assert_eq!(scan(TAKE, &mut map, &child, 3 * MIB), [1, 600]);
    }

    /// They are zero now, whatever they were. One page, and all of a page table, which the kernel may free.
    #[test]
    fn dropped_pages_count_as_written() {
        let bytes = 4 * HUGE;
        let Some((mut child, mut map, _fault)) = protected(&[], bytes, bytes) else { return };
        child.run(Do::Write, child.address, bytes as u64 / 4096, 4096, 1);
        scan(TAKE, &mut map, &child, bytes);
        child.run(Do::Drop, child.address + 9 * 4096, 4096, 0, 0);
        child.run(Do::Drop, child.address + HUGE as u64, HUGE as u64, 0, 0);
        let dropped: Vec<u64> = std::iter::once(9).chain(512..1024).collect();
        assert_eq!(scan(TAKE, &mut map, &child, bytes), dropped);
        assert_eq!(scan(TAKE, &mut map, &child, bytes), []);
    }

    #[test]
    fn huge_pages_are_tracked_by_the_small_page() {
        let bytes = 4 * HUGE;
        let Some((mut child, mut map, _fault)) = protected(&[], bytes, bytes) else { return };
        child.run(Do::Huge, child.address, bytes as u64, 0, 0);
        child.run(Do::Write, child.address, bytes as u64 / 4096, 4096, 1);
        scan(TAKE, &mut map, &child, bytes);
        child.write_each(&[1, 700, 1500], 2);
        assert_eq!(scan(TAKE, &mut map, &child, bytes), [1, 700, 1500]);
        assert_eq!(scan(LOOK, &mut map, &child, bytes), []);
    }

    #[test]
    fn what_is_registered_no_longer_is_as_before() {
        let Some((mut child, mut map, fault)) = protected(&[], MIB, MIB) else { return };
        fault.unregister(child.address, MIB as u64).unwrap();
        child.write(1, 1);
        assert!(map.look(child.address, child.address + MIB as u64, |_, _| ()).is_err());
        fault.register(child.address, MIB as u64).unwrap();
        assert!(scan(TAKE, &mut map, &child, MIB).contains(&1), "nothing is protected to begin with");
    }

    #[test]
    fn an_ended_process_is_not_taken_for_an_idle_one() {
        let Some((mut child, mut map, fault)) = protected(&[], MIB, MIB) else { return };
        child.write(1, 1);
        child.end();
        let gone = map.look(child.address, child.address + MIB as u64, |_, _| ()).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(nix::libc::ESRCH));
        assert!(fault.register(child.address, MIB as u64).is_err());
    }
}
