//! Latency over time, in bounded memory: for a picture of what a run went through.

/// One point of the picture: the slowest of one or more neighbouring replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Sample {
    /// When its request was due, in µs from the start of counting.
    pub sent_us: u64,
    /// How long after that the reply came, in µs.
    pub rtt_us: u64,
}

/// Keeps at most so many samples. When full, neighbours are merged, the slower one stays: peaks survive.
#[derive(Clone, Debug)]
pub struct Samples {
    kept: Vec<Sample>,
    max: usize,
    /// How many replies make one sample, and how many the last one has.
    stride: u64,
    in_last: u64,
}

impl Samples {
    /// At most `max` samples, rounded down to even; none below 2.
    pub fn new(max: usize) -> Self {
        Self { kept: Vec::new(), max: max & !1, stride: 1, in_last: 0 }
    }

    /// Adds a reply.
    pub fn add(&mut self, sample: Sample) {
        if self.max == 0 {
            return;
        }
        if self.in_last > 0 && self.in_last < self.stride {
            let last = self.kept.last_mut().expect("a sample was begun");
            if sample.rtt_us > last.rtt_us {
                *last = sample;
            }
            self.in_last += 1;
            return;
        }
        if self.kept.len() == self.max {
            self.merge_neighbours();
        }
        self.kept.push(sample);
        self.in_last = 1;
    }

    /// The samples, in the order their replies came.
    pub fn into_kept(self) -> Vec<Sample> {
        self.kept
    }

    fn merge_neighbours(&mut self) {
        let half = self.kept.len() / 2;
        for index in 0..half {
            let (a, b) = (self.kept[2 * index], self.kept[2 * index + 1]);
            self.kept[index] = if b.rtt_us > a.rtt_us { b } else { a };
        }
        self.kept.truncate(half);
        self.stride *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_replies_are_kept_as_they_are() {
        let mut samples = Samples::new(4);
        for n in 0..4 {
            samples.add(Sample { sent_us: n, rtt_us: 10 });
        }
        assert_eq!(samples.into_kept().len(), 4);
    }

    #[test]
    fn peaks_survive_and_memory_is_bounded() {
        let mut samples = Samples::new(16);
        for n in 0..10_000 {
            samples.add(Sample { sent_us: n, rtt_us: if n == 4321 { 999 } else { n % 7 } });
        }
        let kept = samples.into_kept();
        assert!((8..=16).contains(&kept.len()), "{}", kept.len());
        assert!(kept.contains(&Sample { sent_us: 4321, rtt_us: 999 }));
        assert!(kept.is_sorted_by_key(|sample| sample.sent_us));
    }

    #[test]
    fn none_are_kept_unless_asked_for() {
        let mut samples = Samples::new(0);
        samples.add(Sample { sent_us: 1, rtt_us: 1 });
        assert!(samples.into_kept().is_empty());
    }
}
