//! The longest time without any reply: what a client notices of a guest that was away.

/// Watches the gaps between replies.
#[derive(Clone, Debug)]
pub struct Silence {
    start_ns: u64,
    last_ns: u64,
    longest_ns: u64,
    began_ns: u64,
}

impl Silence {
    /// Watching begins at `start_ns`: the wait for the first reply counts.
    pub fn new(start_ns: u64) -> Self {
        Self { start_ns, last_ns: start_ns, longest_ns: 0, began_ns: start_ns }
    }

    /// A reply came. Replies before the start are not looked at.
    pub fn reply(&mut self, now_ns: u64) {
        let gap_ns = now_ns.saturating_sub(self.last_ns);
        if gap_ns > self.longest_ns {
            self.longest_ns = gap_ns;
            self.began_ns = self.last_ns;
        }
        self.last_ns = self.last_ns.max(now_ns);
    }

    /// Sending ended at `end_ns` and not all is answered: the gap up to there counts too.
    pub fn end(&mut self, end_ns: u64) {
        self.reply(end_ns);
    }

    /// The longest gap in ns.
    pub fn longest_ns(&self) -> u64 {
        self.longest_ns
    }

    /// When the longest gap began, in ns from the start.
    pub fn began_ns(&self) -> u64 {
        self.began_ns - self.start_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_and_its_beginning() {
        let mut silence = Silence::new(100);
        for now_ns in [50, 110, 150, 155] {
            silence.reply(now_ns);
        }
        assert_eq!((silence.longest_ns(), silence.began_ns()), (40, 10));
        silence.end(300);
        assert_eq!((silence.longest_ns(), silence.began_ns()), (145, 55));
    }

    #[test]
    fn no_reply_at_all_is_one_silence() {
        let mut silence = Silence::new(100);
        silence.end(1100);
        assert_eq!((silence.longest_ns(), silence.began_ns()), (1000, 0));
    }
}
