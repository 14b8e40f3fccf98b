//! Rounds while the guest runs, the rest in the blackout.

use super::{After, Diverged, Divergence, Limits, Plan, PlanName, Progress, Round, Step};

/// Sends all pages, then those dirtied meanwhile, again and again, until the rest fits the downtime, and a little longer if
/// that makes the blackout much shorter.
#[derive(Clone, Copy, Debug)]
pub struct PreCopy {
    limits: Limits,
    trend: Trend,
}

/// What earlier rounds leave to remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Trend {
    /// Rounds in a row that left hardly fewer dirty pages than the one before.
    stalled: u32,
    /// Rounds that were made though the rest fitted the downtime.
    extra: u32,
}

impl PreCopy {
    /// Held to those limits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, trend: Trend::default() }
    }
}

impl Plan for PreCopy {
    fn name(&self) -> PlanName {
        PlanName::PreCopy
    }

    fn tracks(&self) -> bool {
        true
    }

    fn next(&mut self, progress: &Progress) -> Step {
        let (step, trend) = decide(progress, &self.limits, self.trend);
        self.trend = trend;
        step
    }

    fn after(&self) -> After {
        After::Nothing
    }
}

/// Whether to go on, stop or give up.
fn decide(progress: &Progress, limits: &Limits, trend: Trend) -> (Step, Trend) {
    let fixed_us = FIXED_US + progress.round_trip_us;
    let Some(last) = progress.last else {
        return (Step::Round, trend);
    };
    let page_ns = page_ns(progress, last);
    let blackout_us = |dirty: u64| fixed_us + dirty * page_ns / 1_000;
    let in_time = last.number < limits.rounds_max && progress.elapsed_us < limits.timeout_us;

    if blackout_us(last.dirty_after) <= limits.downtime_us {
        let next_us = blackout_us(last.dirty_after);
        let then_dirty = expected_dirty(last, next_us);
        let pages_halve = last.dirty_after > FEW_PAGES && then_dirty * 2 <= last.dirty_after;
        let blackout_halves = blackout_us(then_dirty) * 2 <= next_us;
        if in_time && trend.extra < EXTRA_ROUNDS_MAX && (pages_halve || blackout_halves) {
            return (Step::Round, Trend { extra: trend.extra + 1, ..trend });
        }
        return (Step::Stop, trend);
    }
    if progress.elapsed_us >= limits.timeout_us {
        return (Step::GiveUp(Diverged::Timeout), trend);
    }
    if !in_time {
        return (Step::GiveUp(Diverged::Rounds), trend);
    }
    // Rounds tell better than the greeting how long a round trip is: so that is not judged before there were some.
    let too_far = fixed_us > limits.downtime_us;
    let stalled = if converges(progress, last) && !too_far { 0 } else { trend.stalled + 1 };
    if stalled < STALLED_ROUNDS_MAX {
        return (Step::Round, Trend { stalled, ..trend });
    }
    if too_far {
        return (Step::GiveUp(Diverged::Floor), trend);
    }
    let harder = THROTTLES_PERCENT.into_iter().find(|percent| *percent > progress.throttle_percent);
    match harder {
        // The next round shows whether that was enough.
        Some(percent) if limits.divergence == Divergence::Throttle => {
            (Step::Throttled(percent), Trend { stalled: STALLED_ROUNDS_MAX - 1, ..trend })
        }
        _ => (Step::GiveUp(Diverged::Rate), Trend { stalled, ..trend }),
    }
}

/// What a page costs, nanoseconds: by the larger of the last two rounds, since a small one is mostly fixed cost.
fn page_ns(progress: &Progress, last: Round) -> u64 {
    let round = match progress.before {
        Some(before) if last.pages < TINY_PAGES && before.pages > last.pages => before,
        _ => last,
    };
    let took_us = round.took_us.saturating_sub(progress.round_trip_us);
    (took_us * 1_000 / round.pages.max(TINY_PAGES)).max(PAGE_NS_MIN)
}

/// How many pages a round of so many microseconds would leave dirty, at the rate of the last one.
fn expected_dirty(last: Round, round_us: u64) -> u64 {
    (last.dirty_after * round_us).div_ceil(last.took_us.max(1))
}

/// Whether the last round left a fifth fewer dirty pages than there were.
fn converges(progress: &Progress, last: Round) -> bool {
    let before = progress.before.map_or(last.pages, |before| before.dirty_after);
    last.dirty_after * 5 <= before * 4
}

/// What a blackout takes without a page, beside the round trip: to stop, scan, take the state, poll; measured.
const FIXED_US: u64 = 300;
/// The least a page costs: to read, send, write and compare it on the fastest link.
const PAGE_NS_MIN: u64 = 500;
/// A round of fewer pages does not tell what one costs.
const TINY_PAGES: u64 = 64;
/// So few pages are not worth a round of their own, unless the link is so slow that it halves the blackout.
const FEW_PAGES: u64 = 32;
/// Most rounds that are made though the rest fits the downtime.
const EXTRA_ROUNDS_MAX: u32 = 3;
/// After so many rounds that do not converge something is done about it.
const STALLED_ROUNDS_MAX: u32 = 3;
/// How much of its time the guest is kept from running, in the order it is tried, percent.
const THROTTLES_PERCENT: [u8; 7] = [20, 40, 60, 80, 90, 95, 99];

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { downtime_us: 2_000, rounds_max: 30, timeout_us: 120_000_000, divergence: Divergence::Throttle };

    fn round(number: u32, pages: u64, took_us: u64, dirty_after: u64) -> Round {
        Round { number, pages, bytes: pages * 4_100, took_us, dirty_after }
    }

    fn progress(before: Option<Round>, last: Option<Round>) -> Progress {
        Progress { last, before, elapsed_us: 1_000_000, round_trip_us: 100, throttle_percent: 0 }
    }

    /// What is decided, row by row.
    #[test]
    fn the_table() {
        let give_up = Limits { divergence: Divergence::GiveUp, ..LIMITS };
        let stalled = Trend { stalled: 2, extra: 0 };
        let spent = Trend { stalled: 0, extra: EXTRA_ROUNDS_MAX };
        let bulk = Some(round(1, 65_536, 100_000, 1_000));
        let flat = Some(round(5, 9_000, 14_000, 9_000));
        let late = |last: Round| Progress { elapsed_us: LIMITS.timeout_us, ..progress(bulk, Some(last)) };
        let slow = |dirty| Progress { last: Some(round(7, 80, 26_800, dirty)), ..progress(bulk, None) };
        let far = |last| Progress { round_trip_us: 1_800, ..progress(bulk, last) };
        let throttled = |percent| Progress { throttle_percent: percent, ..progress(flat, flat) };
        let ten_ms = Limits { downtime_us: 10_000, ..LIMITS };
        let table = [
            ("the first round", progress(None, None), LIMITS, Trend::default(), Step::Round),
            ("fits, but a round would leave few", progress(None, bulk), LIMITS, Trend::default(), Step::Round),
            ("few are left", progress(bulk, Some(round(2, 1_000, 1_500, 16))), LIMITS, Trend::default(), Step::Stop),
            ("none is left", progress(None, Some(round(1, 65_536, 100_000, 0))), LIMITS, Trend::default(), Step::Stop),
            (
                "fits, and a round would leave as many",
                progress(bulk, Some(round(3, 400, 900, 390))),
                LIMITS,
                Trend::default(),
                Step::Stop,
            ),
            ("fits, and enough was tried", progress(None, bulk), LIMITS, spent, Step::Stop),
            ("fits, and it is late", late(round(2, 1_000, 1_500, 600)), LIMITS, Trend::default(), Step::Stop),
            ("a slow link, few pages, but half the blackout", slow(26), ten_ms, Trend::default(), Step::Round),
            ("a slow link, hardly a page", slow(3), ten_ms, Trend::default(), Step::Stop),
            (
                "too many, and fewer each time",
                progress(bulk, Some(round(2, 60_000, 90_000, 9_000))),
                LIMITS,
                Trend::default(),
                Step::Round,
            ),
            ("too many, and no fewer", progress(flat, flat), LIMITS, Trend::default(), Step::Round),
            ("no fewer for long", progress(flat, flat), LIMITS, stalled, Step::Throttled(20)),
            ("still no fewer", throttled(20), LIMITS, stalled, Step::Throttled(40)),
            ("it hardly runs any more", throttled(95), LIMITS, stalled, Step::Throttled(99)),
            ("nothing more can be done", throttled(99), LIMITS, stalled, Step::GiveUp(Diverged::Rate)),
            ("it is not to be throttled", progress(flat, flat), give_up, stalled, Step::GiveUp(Diverged::Rate)),
            (
                "the last round",
                progress(bulk, Some(round(30, 9_000, 14_000, 5_000))),
                LIMITS,
                Trend::default(),
                Step::GiveUp(Diverged::Rounds),
            ),
            (
                "too late",
                late(round(2, 9_000, 14_000, 9_000)),
                LIMITS,
                Trend::default(),
                Step::GiveUp(Diverged::Timeout),
            ),
            ("far, by the greeting", far(None), LIMITS, Trend::default(), Step::Round),
            ("far, by a round", far(Some(round(2, 0, 2_000, 0))), LIMITS, Trend::default(), Step::Round),
            (
                "too far for the downtime",
                far(Some(round(4, 0, 2_000, 0))),
                LIMITS,
                stalled,
                Step::GiveUp(Diverged::Floor),
            ),
        ];
        for (what, progress, limits, trend, step) in table {
            assert_eq!(decide(&progress, &limits, trend).0, step, "{what}");
        }
    }

    /// A guest that dirties pages at random, on a link of so many bytes a second: how it ends, the rounds, the blackout.
    fn run(limits: Limits, memory_pages: u64, dirty_per_ms: f64, bytes_per_s: f64) -> (Step, u32, f64) {
        let (mut plan, mut progress) = (PreCopy::new(limits), Progress { round_trip_us: 100, ..Progress::default() });
        let mut dirty = memory_pages as f64;
        loop {
            let step = plan.next(&progress);
            let rounds = progress.last.map_or(0, |last| last.number);
            match step {
                Step::Stop | Step::GiveUp(_) => return (step, rounds, 400.0 + dirty * 4_100.0 / bytes_per_s * 1e6),
                Step::Throttled(percent) => progress.throttle_percent = percent,
                Step::Round => {}
            }
            let took_us = 250.0 + dirty * (4_100.0 / bytes_per_s * 1e6 + 0.3);
            let runs = 1.0 - f64::from(progress.throttle_percent) / 100.0;
            let writes = dirty_per_ms * took_us / 1e3 * runs;
            let left = memory_pages as f64 * (1.0 - (-writes / memory_pages as f64).exp());
            let round = Round {
                number: rounds + 1,
                pages: dirty as u64,
                bytes: (dirty * 4_100.0) as u64,
                took_us: took_us as u64,
                dirty_after: left as u64,
            };
            progress.before = progress.last.replace(round);
            progress.elapsed_us += took_us as u64;
            dirty = left;
        }
    }

    #[test]
    fn a_fast_link_needs_few_rounds() {
        let (step, rounds, blackout_us) = run(LIMITS, 65_536, 10.0, 3e9);
        assert_eq!(step, Step::Stop);
        assert!((2..=4).contains(&rounds), "{rounds} rounds");
        assert!(blackout_us < 500.0, "{blackout_us}");
    }

    #[test]
    fn a_slow_link_converges() {
        let limits = Limits { downtime_us: 10_000, ..LIMITS };
        let (step, rounds, blackout_us) = run(limits, 65_536, 1.0, 12.5e6);
        assert_eq!(step, Step::Stop);
        assert!(rounds <= 12 && blackout_us <= 10_000.0, "{rounds} rounds, {blackout_us}");
    }

    #[test]
    fn a_link_that_is_too_slow_ends_in_time() {
        let slow = |divergence| run(Limits { divergence, ..LIMITS }, 16_384, 50.0, 12.5e6);
        assert_eq!(slow(Divergence::GiveUp).0, Step::GiveUp(Diverged::Rate));
        let (step, rounds, _) = slow(Divergence::Throttle);
        assert!(
            matches!(step, Step::Stop | Step::GiveUp(_)) && rounds <= LIMITS.rounds_max,
            "{step:?}, {rounds} rounds"
        );
    }
}
