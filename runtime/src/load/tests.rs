//! The client against servers on loopback, good ones and bad ones.
mod servers;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::ops::ControlFlow;
use std::time::Duration;

use super::*;
use servers::{Mischief, StreamServer};

/// A short run: half a second, 400 requests.
fn plan(kind: Kind, target: SocketAddr) -> Plan {
    let mut plan = Plan::new(kind, target);
    plan.pace = Pace::PerSecond(800.0);
    plan.duration = Duration::from_millis(500);
    plan.drain = Duration::from_millis(300);
    plan
}

#[track_caller]
fn assert_clean(report: &Report, sent: u64) {
    assert_eq!((report.sent, report.received), (sent, sent), "{report}");
    assert!(report.is_clean(), "{report}");
    assert!(report.rtt_us_max > 0.0, "{report}");
}

#[test]
fn udp_echo() {
    let mut plan = plan(Kind::UdpEcho, servers::udp_echo("127.0.0.1:0", |_| Mischief::None));
    (plan.connections, plan.samples_max) = (3, 100);
    let report = run(&plan, &mut ()).unwrap();
    assert_clean(&report, 400);
    assert!((50..=100).contains(&report.samples.len()), "{}", report.samples.len());
    assert!(report.bits_per_s > 0.0);
}

#[test]
fn udp_echo_over_ipv6_at_full_speed() {
    let mut plan = plan(Kind::UdpEcho, servers::udp_echo("[::1]:0", |_| Mischief::None));
    plan.pace = Pace::Max { window: 16 };
    plan.duration = Duration::from_millis(200);
    let report = run(&plan, &mut ()).unwrap();
    assert!(report.sent > 100, "{report}");
    assert!(report.is_clean(), "{report}");
}

#[test]
fn udp_echo_in_segments() {
    let server = servers::udp_echo("127.0.0.1:0", |_| Mischief::None);
    for (payload_bytes, connections, window) in [(64, 1, 16), (1000, 3, 6), (60_000, 1, 1)] {
        let mut plan = plan(Kind::UdpEcho, server);
        (plan.payload_bytes, plan.connections, plan.segmentation) = (payload_bytes, connections, true);
        (plan.pace, plan.duration) = (Pace::Max { window }, Duration::from_millis(50));
        let report = run(&plan, &mut ()).unwrap();
        assert!(report.sent > 20, "{report}");
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn udp_mischief_is_told_apart() {
    let server = servers::udp_echo("127.0.0.1:0", |n| match n {
        10 | 20 => Mischief::Drop,
        30 => Mischief::Twice,
        40 => Mischief::FlipLastByte,
        50 => Mischief::AfterNext,
        _ => Mischief::None,
    });
    let report = run(&plan(Kind::UdpEcho, server), &mut ()).unwrap();
    assert_eq!((report.sent, report.received, report.lost), (400, 398, 2), "{report}");
    assert_eq!((report.duplicated, report.reordered, report.corrupted), (1, 1, 1), "{report}");
}

#[test]
fn udp_square() {
    let report = run(&plan(Kind::UdpSquare, servers::udp_square()), &mut ()).unwrap();
    assert_clean(&report, 400);
}

#[test]
fn udp_to_nobody_is_lost_and_unreachable() {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut plan = plan(Kind::UdpEcho, nobody);
    plan.duration = Duration::from_millis(100);
    let report = run(&plan, &mut ()).unwrap();
    assert_eq!((report.sent, report.lost), (80, 80), "{report}");
    assert!(report.resets > 0, "{report}");
    assert_eq!(report.problems, ["Connection refused"]);
    assert_eq!((report.silence_us_max, report.silence_began_ms), (100_000, 0));
}

#[test]
fn tcp_echo() {
    let server = StreamServer::new(servers::echo, None);
    let mut plan = plan(Kind::TcpEcho, server.address);
    (plan.connections, plan.payload_bytes) = (3, 5000);
    let report = run(&plan, &mut ()).unwrap();
    assert_clean(&report, 400);
}

#[test]
fn tcp_echo_at_full_speed() {
    let server = StreamServer::new(servers::echo, None);
    let mut plan = plan(Kind::TcpEcho, server.address);
    (plan.pace, plan.payload_bytes) = (Pace::Max { window: 64 }, 16 * 1024);
    plan.duration = Duration::from_millis(200);
    let report = run(&plan, &mut ()).unwrap();
    assert!(report.sent > 100, "{report}");
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_flipped_byte_in_a_stream_is_one_corrupted_message() {
    let server = StreamServer::new(servers::echo_with_a_flip_at(10_000), None);
    let report = run(&plan(Kind::TcpEcho, server.address), &mut ()).unwrap();
    assert_eq!((report.sent, report.received, report.corrupted), (400, 400, 1), "{report}");
}

#[test]
fn after_a_reset_the_client_comes_back() {
    // Each connection is reset after 100 messages.
    let server = StreamServer::new(servers::echo, Some(6400));
    let report = run(&plan(Kind::TcpEcho, server.address), &mut ()).unwrap();
    assert_eq!(report.sent, 400, "{report}");
    assert!((3..=4).contains(&report.resets), "{report}");
    assert!(report.received > 300, "{report}");
    assert_eq!((report.corrupted, report.duplicated), (0, 0), "{report}");
}

#[test]
fn kv() {
    let server = StreamServer::new(servers::memcached(), None);
    let mut plan = plan(Kind::Kv, server.address);
    (plan.connections, plan.keys, plan.reads) = (2, 20, 0.5);
    assert_clean(&run(&plan, &mut ()).unwrap(), 400);
}

#[test]
fn kv_after_resets_has_no_false_alarms() {
    let server = StreamServer::new(servers::memcached(), Some(8000));
    let mut plan = plan(Kind::Kv, server.address);
    (plan.keys, plan.reads, plan.pace) = (20, 0.5, Pace::PerSecond(4000.0));
    let report = run(&plan, &mut ()).unwrap();
    assert!(report.resets > 2, "{report}");
    assert!(report.received > 1000, "{report}");
    assert_eq!(report.corrupted, 0, "{report}");
}

#[test]
fn a_store_that_forgets_is_found_out() {
    let server = StreamServer::new(servers::forgetful_memcached(), None);
    let report = run(&plan(Kind::Kv, server.address), &mut ()).unwrap();
    assert!(report.corrupted > 0, "{report}");
    assert_eq!(report.lost, 0, "{report}");
}

#[test]
fn http_stream() {
    let server = StreamServer::new(servers::http_stream(None), None);
    let mut plan = plan(Kind::HttpStream, server.address);
    plan.connections = 2;
    let report = run(&plan, &mut ()).unwrap();
    // The first chunk is due one interval after the start.
    assert_clean(&report, 399);
}

#[test]
fn http_stream_as_fast_as_it_comes() {
    let server = StreamServer::new(servers::http_stream(None), None);
    let mut plan = plan(Kind::HttpStream, server.address);
    plan.pace = Pace::Max { window: 1 };
    let report = run(&plan, &mut ()).unwrap();
    assert!(report.received > 100, "{report}");
    assert!(report.is_clean(), "{report}");
    assert!(report.bits_per_s > 1e6, "{report}");
}

#[test]
fn a_wrong_byte_in_a_stream_is_one_corrupted_chunk() {
    let server = StreamServer::new(servers::http_stream(Some(100_000)), None);
    let report = run(&plan(Kind::HttpStream, server.address), &mut ()).unwrap();
    assert_eq!((report.received, report.corrupted), (399, 1), "{report}");
}

#[test]
fn a_stream_that_breaks_is_asked_for_anew() {
    let server = StreamServer::new(servers::http_stream(None), Some(100_000));
    let report = run(&plan(Kind::HttpStream, server.address), &mut ()).unwrap();
    assert_eq!(report.sent, 399, "{report}");
    assert!(report.resets >= 2, "{report}");
    assert!(report.received > 200 && report.lost > 0, "{report}");
    assert_eq!(report.corrupted, 0, "{report}");
}

#[test]
fn an_error_page_is_not_a_stream() {
    let server = StreamServer::new(servers::http_error, None);
    let report = run(&plan(Kind::HttpStream, server.address), &mut ()).unwrap();
    assert_eq!(report.received, 0, "{report}");
    assert!(report.corrupted > 0, "{report}");
    assert!(report.problems.iter().any(|problem| problem.contains("404")), "{report}");
}

#[test]
fn nobody_to_connect_to_is_an_error() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(matches!(run(&plan(Kind::TcpEcho, nobody), &mut ()), Err(LoadError::Connect { .. })));
    let mut plan = plan(Kind::TcpEcho, nobody);
    plan.connections = 0;
    assert!(matches!(run(&plan, &mut ()), Err(LoadError::Plan(_))));
}

#[test]
fn a_server_that_never_answers_does_not_hold_the_client() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut plan = plan(Kind::TcpEcho, silent.local_addr().unwrap());
    plan.payload_bytes = 1 << 20;
    let report = run(&plan, &mut ()).unwrap();
    assert_eq!((report.sent, report.lost), (400, 400), "{report}");
    assert_eq!((report.silence_us_max, report.silence_began_ms), (500_000, 0));
}

/// Breaks off as soon as something was received.
struct Impatient;

impl Progress for Impatient {
    fn update(&mut self, snapshot: &Snapshot<'_>) -> ControlFlow<()> {
        if snapshot.received() > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn a_run_that_is_broken_off_still_reports() {
    let mut plan = plan(Kind::UdpEcho, servers::udp_echo("127.0.0.1:0", |_| Mischief::None));
    plan.duration = Duration::from_secs(600);
    let report = run(&plan, &mut Impatient).unwrap();
    assert!(report.received > 0 && report.duration_s < 60.0, "{report}");
    assert!(report.is_clean(), "{report}");
}
