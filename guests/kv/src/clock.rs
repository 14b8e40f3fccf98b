//! Time as the store sees it, and what an expiry time of the protocol means on it.

/// One moment, on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The guest's own clock, nanoseconds; only ever goes forward.
    pub ns: u64,
    /// Wall-clock time, seconds since 1970.
    pub unix_s: u64,
}

/// Expiry times up to this are relative, larger ones are seconds since 1970.
pub const RELATIVE_EXPTIME_S_MAX: i64 = 30 * 24 * 60 * 60;

/// The moment, on the guest's own clock in nanoseconds, from which an item is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(u64);

impl Deadline {
    /// For what never expires.
    pub const NEVER: Self = Self(u64::MAX);

    /// What `exptime` means now: 0 is never, negative is gone at once.
    pub fn from_exptime(exptime: i64, now: Now) -> Self {
        let relative_s = match exptime {
            0 => return Self::NEVER,
            ..0 => 0,
            1..=RELATIVE_EXPTIME_S_MAX => exptime.unsigned_abs(),
            _ => exptime.unsigned_abs().saturating_sub(now.unix_s),
        };
        Self(now.ns.saturating_add(relative_s.saturating_mul(1_000_000_000)))
    }

    /// Whether it has come.
    pub fn passed(self, now: Now) -> bool {
        self != Self::NEVER && self.0 <= now.ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { ns: 5_000_000_000, unix_s: 1_700_000_000 };

    fn later(seconds: u64) -> Now {
        Now { ns: NOW.ns + seconds * 1_000_000_000, unix_s: NOW.unix_s + seconds }
    }

    #[test]
    fn zero_never_expires() {
        assert!(!Deadline::from_exptime(0, NOW).passed(later(1 << 32)));
    }

    #[test]
    fn negative_times_have_passed() {
        assert!(Deadline::from_exptime(-1, NOW).passed(NOW));
        assert!(Deadline::from_exptime(i64::MIN, NOW).passed(NOW));
    }

    #[test]
    fn up_to_thirty_days_is_relative() {
        let deadline = Deadline::from_exptime(RELATIVE_EXPTIME_S_MAX, NOW);
        assert!(!deadline.passed(later(RELATIVE_EXPTIME_S_MAX as u64 - 1)));
        assert!(deadline.passed(later(RELATIVE_EXPTIME_S_MAX as u64)));
    }

    #[test]
    fn beyond_is_absolute() {
        assert!(Deadline::from_exptime(RELATIVE_EXPTIME_S_MAX + 1, NOW).passed(NOW));
        let deadline = Deadline::from_exptime(1_700_000_010, NOW);
        assert!(!deadline.passed(later(9)));
        assert!(deadline.passed(later(10)));
        assert!(!Deadline::from_exptime(i64::MAX, NOW).passed(later(1 << 30)));
    }
}
