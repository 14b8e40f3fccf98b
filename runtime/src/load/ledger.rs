//! What became of each request of one connection, within a bounded window of sequence numbers.
//!
//! A ring of records: request n is at slot n modulo the ring's length. A request that is still unanswered when its
//! slot is needed again stays lost: a reply that comes even later is [`Settled::Expired`].

/// The requests of one connection that can still be answered, and those that lately were.
#[derive(Debug)]
pub struct Ledger {
    slots: Box<[Slot]>,
    /// The sequence number of the next request.
    next: u64,
    /// All requests below are settled, given up or out of the window.
    tail: u64,
    /// One above the highest sequence number answered.
    answered_to: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    due_ns: u64,
    sent_ns: u64,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Outstanding,
    GivenUp,
    Answered,
}

/// What a reply meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The first reply to its request.
    First {
        /// When the request was due.
        due_ns: u64,
        /// When it was sent.
        sent_ns: u64,
        /// Whether a later request was answered before.
        reordered: bool,
        /// Whether the request had been given up (its credit is back already).
        given_up: bool,
    },
    /// A further reply to a request that was answered.
    Duplicate {
        /// When the request was due.
        due_ns: u64,
    },
    /// A reply to a request older than the window: it counts as lost already.
    Expired,
    /// A reply to a request that was never sent.
    NeverSent,
}

impl Ledger {
    /// A ledger for at least `window` requests, rounded up to a power of two.
    pub fn new(window: usize) -> Self {
        let slot = Slot { due_ns: 0, sent_ns: 0, fate: Fate::Answered };
        Self { slots: vec![slot; window.next_power_of_two()].into(), next: 0, tail: 0, answered_to: 0 }
    }

    /// Notes a request as sent, and returns its sequence number.
    pub fn open(&mut self, due_ns: u64, sent_ns: u64) -> u64 {
        let sequence = self.next;
        self.next += 1;
        *self.slot(sequence) = Slot { due_ns, sent_ns, fate: Fate::Outstanding };
        self.tail = self.tail.max(self.next.saturating_sub(self.slots.len() as u64));
        sequence
    }

    /// Settles the request a reply answers.
    pub fn settle(&mut self, sequence: u64) -> Settled {
        if sequence >= self.next {
            return Settled::NeverSent;
        }
        if self.next - sequence > self.slots.len() as u64 {
            return Settled::Expired;
        }
        let reordered = sequence < self.answered_to;
        let slot = self.slot(sequence);
        let Slot { due_ns, sent_ns, fate } = *slot;
        if fate == Fate::Answered {
            return Settled::Duplicate { due_ns };
        }
        slot.fate = Fate::Answered;
        self.answered_to = self.answered_to.max(sequence + 1);
        Settled::First { due_ns, sent_ns, reordered, given_up: fate == Fate::GivenUp }
    }

    /// Gives up requests sent before `before_ns` that were not answered; returns how many.
    ///
    /// They may still be answered. Looks from the oldest on and stops at the first that is younger.
    pub fn give_up(&mut self, before_ns: u64) -> u64 {
        let mut given_up = 0;
        while self.tail < self.next {
            let slot = self.slot(self.tail);
            if slot.fate == Fate::Outstanding {
                if slot.sent_ns >= before_ns {
                    break;
                }
                slot.fate = Fate::GivenUp;
                given_up += 1;
            }
            self.tail += 1;
        }
        given_up
    }

    /// The sequence number of the next request.
    pub fn next(&self) -> u64 {
        self.next
    }

    fn slot(&mut self, sequence: u64) -> &mut Slot {
        // The length is a power of two.
        let index = sequence & (self.slots.len() as u64 - 1);
        &mut self.slots[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_first(settled: Settled) -> bool {
        matches!(settled, Settled::First { .. })
    }

    #[test]
    fn a_reply_is_matched_once() {
        let mut ledger = Ledger::new(8);
        assert_eq!(ledger.open(5, 6), 0);
        assert_eq!(ledger.settle(1), Settled::NeverSent);
        assert_eq!(ledger.settle(0), Settled::First { due_ns: 5, sent_ns: 6, reordered: false, given_up: false });
        assert_eq!(ledger.settle(0), Settled::Duplicate { due_ns: 5 });
    }

    #[test]
    fn overtaken_replies_are_reordered() {
        let mut ledger = Ledger::new(8);
        for _ in 0..3 {
            ledger.open(0, 0);
        }
        let order: Vec<bool> = [1, 0, 2]
            .into_iter()
            .map(|sequence| matches!(ledger.settle(sequence), Settled::First { reordered: true, .. }))
            .collect();
        assert_eq!(order, [false, true, false]);
    }

    #[test]
    fn what_left_the_window_is_expired() {
        let mut ledger = Ledger::new(4);
        for n in 0..5 {
            ledger.open(n, n);
        }
        assert_eq!(ledger.settle(0), Settled::Expired);
        assert!(is_first(ledger.settle(1)));
    }

    #[test]
    fn what_was_given_up_may_still_be_answered() {
        let mut ledger = Ledger::new(8);
        for n in 0..4 {
            ledger.open(n * 10, n * 10);
        }
        assert!(is_first(ledger.settle(1)));
        assert_eq!(ledger.give_up(30), 2);
        assert_eq!(ledger.give_up(30), 0);
        assert!(matches!(ledger.settle(0), Settled::First { given_up: true, .. }));
        assert!(matches!(ledger.settle(3), Settled::First { given_up: false, .. }));
    }

    proptest! {
        #[test]
        fn no_request_is_answered_twice(window in 1_usize..40, steps in prop::collection::vec((0_u64..60, any::<bool>()), 0..300)) {
            let mut ledger = Ledger::new(window);
            let mut answered = std::collections::HashSet::new();
            for (sequence, send) in steps {
                if send {
                    ledger.open(0, 0);
                } else if is_first(ledger.settle(sequence)) {
                    prop_assert!(sequence < ledger.next());
                    prop_assert!(answered.insert(sequence));
                }
            }
        }
    }
}
