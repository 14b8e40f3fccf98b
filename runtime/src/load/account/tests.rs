//! Whole runs in virtual time: a server that answers, delays, loses, doubles, swaps and damages.
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn plan(rate: f64, connections: usize) -> Plan {
    let mut plan = Plan::new(Kind::UdpEcho, SocketAddr::from(([10, 0, 0, 1], 7)));
    plan.pace = Pace::PerSecond(rate);
    plan.connections = connections;
    plan.duration = Duration::from_secs(1);
    plan
}

/// What the server does with a request: replies after so many ns.
type Fate = Vec<(u64, Option<bool>)>;

/// Runs a plan; the client wakes every `step_ns`, and `fate` says what becomes of each request: when replies come
/// after it was sent, and whether intact, damaged (`Some(false)`) or unrecognisable (`None`).
fn simulate(plan: &Plan, step_ns: u64, fate: impl Fn(usize, u64, u64) -> Fate) -> Report {
    let mut account = Account::new(plan, 0);
    let mut replies: Vec<(u64, usize, Check)> = Vec::new();
    let end_ns = account.tally().to_ns + nanoseconds(plan.drain);
    let mut now_ns = 0;
    while now_ns < end_ns {
        replies.sort_by_key(|reply| reply.0);
        let here = replies.partition_point(|reply| reply.0 <= now_ns);
        for (at_ns, connection, check) in replies.drain(..here) {
            account.reply(connection, check, at_ns);
        }
        while let Some(connection) = account.take(now_ns) {
            let sequence = account.open(connection, now_ns);
            for (delay_ns, intact) in fate(connection, sequence, now_ns) {
                let check = match intact {
                    Some(true) => Check::Intact(sequence),
                    Some(false) => Check::Damaged(sequence),
                    None => Check::Unknown,
                };
                replies.push((now_ns + delay_ns, connection, check));
            }
        }
        account.sweep(now_ns);
        now_ns += step_ns;
    }
    account.finish(now_ns)
}

#[test]
fn a_good_server_gets_a_clean_report() {
    let report = simulate(&plan(1000.0, 4), MS / 10, |_, _, _| vec![(200_000, Some(true))]);
    assert_eq!((report.sent, report.received, report.lost), (1000, 1000, 0));
    assert!(report.is_clean());
    assert!((200.0..=201.0).contains(&report.rtt_us_p50), "{}", report.rtt_us_p50);
    assert!((999.0..=1000.0).contains(&report.packets_per_s));
    assert!(report.silence_us_max <= 1_100);
    assert_eq!(report.late_sends, 0);
}

#[test]
fn losses_duplicates_and_damage_are_told_apart() {
    let report = simulate(&plan(1000.0, 1), MS, |_, sequence, _| match sequence {
        10 | 11 => vec![],
        20 => vec![(100, Some(true)), (5000, Some(true)), (9000, Some(true))],
        30 => vec![(100, Some(false))],
        40 => vec![(100, None)],
        50 => vec![(5 * MS, Some(true))],
        _ => vec![(100, Some(true))],
    });
    assert_eq!(report.sent, 1000);
    // 10 and 11 vanished; 40 came back as something nobody can match.
    assert_eq!((report.received, report.lost), (997, 3));
    assert_eq!(report.duplicated, 2);
    assert_eq!(report.reordered, 1);
    assert_eq!(report.corrupted, 2);
    assert!(!report.is_clean());
}

#[test]
fn a_pause_of_the_server_is_one_silence_and_many_slow_replies() {
    // Away from 300 to 500 ms; then it answers everything that waited.
    let report = simulate(&plan(1000.0, 2), MS / 10, |_, _, now_ns| {
        let back_ns = 500 * MS;
        let away = (300 * MS..back_ns).contains(&now_ns);
        vec![(if away { back_ns - now_ns } else { MS / 10 }, Some(true))]
    });
    assert!(report.is_clean());
    assert!((199_000..=201_000).contains(&report.silence_us_max), "{}", report.silence_us_max);
    assert!((299..=300).contains(&report.silence_began_ms), "{}", report.silence_began_ms);
    assert!((199_000.0..=201_000.0).contains(&report.rtt_us_max));
    // 200 of 1000 requests met the pause: the slowest hundredth waited nearly all of it.
    assert!(report.rtt_us_p99 > 180_000.0, "{}", report.rtt_us_p99);
    assert!(report.rtt_us_p50 < 200.0);
}

#[test]
fn a_pause_of_the_client_is_not_omitted() {
    // The client wakes only every 100 ms, the server answers at once: latency counts from when sends were due.
    let report = simulate(&plan(1000.0, 1), 100 * MS, |_, _, _| vec![(0, Some(true))]);
    assert_eq!((report.sent, report.received), (1000, 1000));
    assert!(report.rtt_us_p50 > 45_000.0, "{}", report.rtt_us_p50);
    assert!(report.late_sends > 900);
    assert!((99_000..=100_000).contains(&report.send_lag_us_max), "{}", report.send_lag_us_max);
    assert!(report.from_send.p50_us < 101_000.0);
}

#[test]
fn a_server_that_dies_leaves_silence_to_the_end() {
    let report = simulate(
        &plan(1000.0, 1),
        MS,
        |_, _, now_ns| {
            if now_ns < 600 * MS { vec![(MS / 2, Some(true))] } else { vec![] }
        },
    );
    assert_eq!((report.received, report.lost), (600, 400));
    assert!((599..=601).contains(&report.silence_began_ms), "{}", report.silence_began_ms);
    assert!((399_000..=401_000).contains(&report.silence_us_max), "{}", report.silence_us_max);
}

#[test]
fn what_is_due_in_the_warm_up_does_not_count() {
    let mut plan = plan(1000.0, 1);
    plan.warmup = Duration::from_millis(500);
    let report = simulate(&plan, MS, |_, sequence, _| if sequence < 400 { vec![] } else { vec![(10, Some(true))] });
    assert_eq!((report.sent, report.received), (1000, 1000));
    assert_eq!(report.duration_s, 1.0);
    assert!(report.is_clean());
}

#[test]
fn a_closed_loop_keeps_its_window_and_survives_losses() {
    let mut plan = plan(1.0, 2);
    plan.pace = Pace::Max { window: 8 };
    let report = simulate(&plan, MS, |_, sequence, _| if sequence % 50 == 7 { vec![] } else { vec![(MS, Some(true))] });
    assert!(report.lost > 0);
    assert_eq!(report.rate, None);
    // Lost ones give their place back: the loop does not run dry.
    assert!(report.received > 500, "{}", report.received);
    assert_eq!(report.late_sends, 0);
}

#[test]
fn a_run_cut_short_is_a_shorter_run() {
    let mut account = Account::new(&plan(1000.0, 1), 0);
    while account.take(100 * MS).is_some() {
        let sequence = account.open(0, 100 * MS);
        account.reply(0, Check::Intact(sequence), 100 * MS);
    }
    account.end_at(100 * MS);
    assert!(account.is_over(100 * MS));
    let report = account.finish(200 * MS);
    assert_eq!(report.sent, 101);
    assert!((0.09..0.11).contains(&report.duration_s));
    assert!(report.is_clean());
}

#[test]
fn what_the_kernel_never_took_is_lost() {
    let account = Account::new(&plan(1000.0, 1), 0);
    let report = account.finish(3000 * MS);
    assert_eq!((report.sent, report.lost), (1000, 1000));
    assert_eq!((report.silence_us_max, report.silence_began_ms), (1_000_000, 0));
}

#[test]
fn the_window_is_bounded() {
    let mut many = plan(1e8, 4096);
    assert_eq!(in_flight_each(&many), 256);
    many.connections = 1;
    assert_eq!(in_flight_each(&many), IN_FLIGHT_MAX);
}

proptest! {
    /// Whatever the server does, each request is answered or lost, and each further reply is a duplicate.
    #[test]
    fn every_request_is_accounted_for(
        fates in prop::collection::vec(prop::collection::vec(0_u64..400, 0..3), 64),
        connections in 1_usize..5,
    ) {
        let fate = |connection: usize, sequence: u64, _| {
            let delays = &fates[(sequence as usize * connections + connection) % fates.len()];
            delays.iter().map(|delay_ms| (delay_ms * MS, Some(true))).collect::<Fate>()
        };
        let report = simulate(&plan(200.0, connections), 5 * MS, fate);
        let of = |condition: &dyn Fn(usize) -> u64| (0..200).map(|n| condition(fates[n % fates.len()].len())).sum::<u64>();
        prop_assert_eq!(report.sent, 200);
        prop_assert_eq!(report.received, of(&|replies| u64::from(replies > 0)));
        prop_assert_eq!(report.lost, of(&|replies| u64::from(replies == 0)));
        prop_assert_eq!(report.duplicated, of(&|replies| replies.saturating_sub(1) as u64));
        prop_assert_eq!(report.corrupted, 0);
    }
}
