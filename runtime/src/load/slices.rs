//! Replies over time, in bounded memory: how many came in each slice of a run, and after what silence. So a client can
//! be asked afterwards what it noticed of something that happened at a known time.

/// Slices that are kept; what comes later is not.
pub const SLICES_MAX: usize = 1 << 20;

/// What came in one slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// Replies.
    pub replies: u32,
    /// The longest time without any reply that ended in it, µs; it may have begun in an earlier one.
    pub silence_us: u32,
}

/// The slices of a run so far.
#[derive(Clone, Debug)]
pub struct Slices {
    start_ns: u64,
    last_ns: u64,
    slice_ns: Option<u64>,
    kept: Vec<Slice>,
}

impl Slices {
    /// Slices of that length from `start_ns` on, none without a length.
    pub fn new(start_ns: u64, slice_ns: Option<u64>) -> Self {
        Self { start_ns, last_ns: start_ns, slice_ns, kept: Vec::new() }
    }

    /// A reply came. Replies before the start are not looked at.
    pub fn reply(&mut self, now_ns: u64) {
        let Some(slice_ns) = self.slice_ns else { return };
        let Some(since_ns) = now_ns.checked_sub(self.start_ns) else { return };
        let index = (since_ns / slice_ns) as usize;
        let silence_us = (now_ns.saturating_sub(self.last_ns) / 1000).min(u32::MAX.into()) as u32;
        self.last_ns = self.last_ns.max(now_ns);
        if index >= SLICES_MAX {
            return;
        }
        if index >= self.kept.len() {
            self.kept.resize(index + 1, Slice::default());
        }
        let slice = &mut self.kept[index];
        slice.replies += 1;
        slice.silence_us = slice.silence_us.max(silence_us);
    }

    /// All of them, up to that of the last reply.
    pub fn into_kept(self) -> Vec<Slice> {
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_where_it_ends() {
        let mut slices = Slices::new(1_000_000, Some(100_000));
        for now_ns in [900_000, 1_010_000, 1_050_000, 1_320_000, 1_330_000] {
            slices.reply(now_ns);
        }
        let slice = |replies, silence_us| Slice { replies, silence_us };
        assert_eq!(slices.into_kept(), [slice(2, 40), slice(0, 0), slice(0, 0), slice(2, 270)]);
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_kept_unasked() {
        let mut slices = Slices::new(0, Some(1));
        slices.reply(SLICES_MAX as u64);
        slices.reply(u64::MAX);
        assert!(slices.into_kept().is_empty());
        let mut slices = Slices::new(0, None);
        slices.reply(5);
        assert!(slices.into_kept().is_empty());
    }
}
