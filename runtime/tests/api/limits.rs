//! Peers that want too much, or are too slow.

use std::io::{Read, Write};
use std::time::Duration;

use roam_runtime::serve::Limits;

use crate::stand::{Stand, eventually};

const DIGEST: &str = "00000000000000000000000000000000000000000000000000000000000000aa";
const VERSION: &str = "GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n";
const SHORT: Duration = Duration::from_millis(300);

fn post(headers: &str) -> String {
    format!("POST /v1/guests HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}\r\n")
}

fn put(headers: &str) -> String {
    format!("PUT /v1/modules/{DIGEST} HTTP/1.1\r\nhost: x\r\n{headers}\r\n")
}

#[test]
fn large_bodies() {
    let stand = Stand::new(Limits { module_bytes_max: 300_000, ..Limits::default() });
    // Told by the header: nothing of the body is waited for.
    stand.connect().say(post("content-length: 262145\r\n")).hear().expect_error(413, "too_large");
    stand.connect().say(put("content-length: 300001\r\n")).hear().expect_error(413, "too_large");
    stand.connect().say(put("content-length: 1152921504606846976\r\n")).hear().expect_error(413, "too_large");
    // Not told: on the way. The peer that goes on sending still hears why.
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(65_536));
    let mut peer = stand.connect();
    peer.say(post("transfer-encoding: chunked\r\n"));
    for _ in 0..5 {
        peer.say(&chunk);
    }
    peer.hear().expect_error(413, "too_large");
    stand.connect().say(put("transfer-encoding: chunked\r\n") + &chunk.repeat(5)).hear().expect_error(413, "too_large");
    stand.assert_serves();
}

#[test]
fn broken_bodies() {
    let stand = Stand::new(Limits::default());
    stand.connect().say(post("transfer-encoding: chunked\r\n") + "zz\r\n").hear().expect_error(400, "bad_request");
    stand.connect().say(put("transfer-encoding: chunked\r\n") + "zz\r\n").hear().expect_error(400, "bad_request");
    stand.assert_serves();
}

#[test]
fn slow_bodies() {
    let stand = Stand::new(Limits { body_stall: SHORT, body_bytes_per_s_min: 1000, ..Limits::default() });
    let mut peers = [stand.connect(), stand.connect(), stand.connect(), stand.connect()];
    peers[0].say(post("content-length: 100\r\n"));
    peers[1].say(put("content-length: 100\r\n") + "0123456789");
    peers[2].say(post("transfer-encoding: chunked\r\n") + "5\r\n{");
    peers[3].say(post("content-length: 100000\r\n"));
    // One that is never still for long, but would take all day. It may be closed while it still sends.
    let mut drip = peers[3].0.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while drip.write_all(b" ").is_ok() {
                std::thread::sleep(SHORT / 10);
            }
        });
        for peer in &mut peers {
            peer.hear().expect_error(408, "too_slow");
            // Without this the drip's socket would live on in this process.
            let _ = peer.0.shutdown(std::net::Shutdown::Both);
        }
    });
    stand.assert_serves();
}

#[test]
fn slow_headers() {
    let stand = Stand::new(Limits { header: SHORT, ..Limits::default() });
    // Nothing at all; half a line; idle after a request.
    let mut peers = [stand.connect(), stand.connect(), stand.connect(), stand.connect()];
    peers[1].say("GET /v1/ver");
    assert_eq!(peers[2].say(VERSION).hear().status, 200);
    // One header after the other, without an end.
    let mut drip = peers[3].0.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = drip.write_all(b"GET /v1/version HTTP/1.1\r\n");
            while drip.write_all(b"x: y\r\n").is_ok() {
                std::thread::sleep(SHORT / 10);
            }
        });
        for peer in &mut peers {
            peer.expect_end();
            let _ = peer.0.shutdown(std::net::Shutdown::Both);
        }
    });
    stand.assert_serves();
}

#[test]
fn connections_of_one_peer() {
    let stand = Stand::new(Limits { connections_peer_max: 3, ..Limits::default() });
    let mut peers = [stand.connect(), stand.connect(), stand.connect()];
    for peer in &mut peers {
        assert_eq!(peer.say(VERSION).hear().status, 200);
    }
    let mut fourth = stand.connect();
    let answer = fourth.hear();
    answer.expect_error(503, "unavailable");
    assert_eq!(answer.header("connection"), Some("close"));
    drop(fourth);
    // Those that are in stay in, and a place that becomes free is free.
    assert_eq!(peers[0].say(VERSION).hear().status, 200);
    let [gone, ..] = peers;
    drop(gone);
    eventually("the place becomes free", || {
        let mut peer = stand.connect();
        peer.say(VERSION).hear().status == 200
    });
}

#[test]
fn connections_of_all_peers() {
    let stand = Stand::new(Limits { connections_max: 1, ..Limits::default() });
    let mut first = stand.connect();
    assert_eq!(first.say(VERSION).hear().status, 200);
    stand.connect().hear().expect_error(503, "unavailable");
    assert_eq!(first.say(VERSION).hear().status, 200);
}

#[test]
fn requests_of_one_peer() {
    let stand = Stand::new(Limits { requests_per_s: 2, requests_burst: 5, ..Limits::default() });
    let mut peer = stand.connect();
    for _ in 0..5 {
        assert_eq!(peer.say(VERSION).hear().status, 200);
    }
    // Slower than two a second this cannot be, or the test would not notice a missing limit.
    let refused = (0..100).map(|_| peer.say(VERSION).hear()).find(|answer| answer.status != 200).unwrap();
    refused.expect_error(429, "too_many_requests");
    assert!(refused.header("retry-after").is_some_and(|wait| wait.parse::<u32>().unwrap() >= 1), "{refused:?}");
    // Coming again does not help; waiting does.
    eventually("the peer is heard again", || stand.connect().say(VERSION).hear().status == 200);
}

#[test]
fn a_peer_that_takes_no_answer_is_let_go() {
    let stand = Stand::new(Limits { write_stall: SHORT, requests_burst: 100_000, ..Limits::default() });
    let mut peer = stand.connect();
    let requests = "GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    // Tens of megabytes of answers, of which nothing is read. The server stops reading, then gives up.
    let mut rest = requests.as_bytes();
    while let Ok(written) = peer.0.write(rest) {
        rest = &rest[written..];
        if rest.is_empty() {
            break;
        }
    }
    let answered = r#"roam_api_requests_total{method="GET",route="/v1/openapi.json",status="200"}"#;
    eventually("the first is answered", || stand.metric(answered).is_some());
    eventually("the connection is given up", || stand.metric("roam_api_connections") == Some(1.0));
    let mut answers = Vec::new();
    let _ = peer.0.read_to_end(&mut answers);
    assert!(!answers.is_empty() && answers.len() < 1000 * roam_runtime::host::serve::openapi().len());
}

#[test]
fn a_request_under_way_may_finish_when_the_daemon_goes_down() {
    let mut stand = Stand::new(Limits::default());
    let body = "{}";
    let mut peer = stand.connect();
    peer.say(post(&format!("content-length: {}\r\n", body.len())));
    let mut idle = stand.connect();
    assert_eq!(idle.say(VERSION).hear().status, 200);
    stand.go_down();
    idle.expect_end();
    peer.say(body).hear().expect_error(400, "bad_request");
    peer.expect_end();
    stand.wait_down();
    assert!(!stand.socket.exists());
}

#[test]
fn a_request_that_does_not_finish_is_cut_off() {
    let mut stand = Stand::new(Limits { shutdown: SHORT, ..Limits::default() });
    let mut peer = stand.connect();
    peer.say(post("content-length: 10\r\n"));
    eventually("the request is there", || stand.metric("roam_api_connections") == Some(2.0));
    stand.go_down();
    stand.wait_down();
    peer.expect_end();
}
