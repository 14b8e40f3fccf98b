//! Requests that are wrong.

use roam_runtime::serve::Limits;

use crate::stand::Stand;

const DIGEST: &str = "00000000000000000000000000000000000000000000000000000000000000aa";

fn request(line: &str, headers: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    format!("{line} HTTP/1.1\r\nhost: x\r\n{headers}{length}\r\n{body}")
}

#[test]
fn every_error_has_code_and_sentence() {
    let stand = Stand::new(Limits::default());
    let json = "content-type: application/json\r\n";
    let spec = |rest: &str| format!(r#"{{"name":"kv","module":"{DIGEST}"{rest}}}"#);
    let missing = format!("GET /v1/modules/{DIGEST}");
    for (line, headers, body, status, code) in [
        ("GET /", "", "", 404, "not_found"),
        ("GET /v2/guests", "", "", 404, "not_found"),
        ("GET /v1/guests/", "", "", 404, "not_found"),
        ("PATCH /v1/guests", "", "", 405, "method_not_allowed"),
        ("BREW /v1/health", "", "", 405, "method_not_allowed"),
        ("DELETE /v1/openapi.json", "", "", 405, "method_not_allowed"),
        ("GET /v1/guests/Kv", "", "", 400, "bad_request"),
        ("GET /v1/guests/%ff", "", "", 400, "bad_request"),
        ("GET /v1/guests/..%2f..%2fetc", "", "", 400, "bad_request"),
        ("GET /v1/guests/nobody", "", "", 404, "not_found"),
        ("GET /v1/guests/nobody/stats", "", "", 404, "not_found"),
        ("GET /v1/guests/nobody/logs", "", "", 404, "not_found"),
        ("GET /v1/guests/nobody/logs?tail=-1", "", "", 400, "bad_request"),
        ("GET /v1/guests/nobody/logs?fellow=true", "", "", 400, "bad_request"),
        ("POST /v1/guests/nobody/start", "", "", 404, "not_found"),
        ("POST /v1/guests/nobody/stop", "", "", 404, "not_found"),
        ("POST /v1/guests/nobody/stop?grace_ms=60001", "", "", 422, "invalid"),
        ("DELETE /v1/guests/nobody?force=perhaps", "", "", 400, "bad_request"),
        ("GET /v1/modules/xyz", "", "", 400, "bad_request"),
        (&missing, "", "", 404, "not_found"),
        ("POST /v1/guests", "", &spec(""), 400, "bad_request"),
        ("POST /v1/guests", "content-type: text/plain\r\n", &spec(""), 400, "bad_request"),
        ("POST /v1/guests", json, "", 400, "bad_request"),
        ("POST /v1/guests", json, "{", 400, "bad_request"),
        ("POST /v1/guests", json, "[]", 400, "bad_request"),
        ("POST /v1/guests", json, &format!("{} {{}}", spec("")), 400, "bad_request"),
        ("POST /v1/guests", json, &spec(r#","memroy":1"#), 400, "bad_request"),
        ("POST /v1/guests", json, &spec(r#","mtu":-1"#), 400, "bad_request"),
        ("POST /v1/guests", json, &spec(r#","ip":"10.0.0.1""#), 400, "bad_request"),
        ("POST /v1/guests", json, &spec(r#","mtu":1"#), 422, "invalid"),
        ("POST /v1/guests", json, &"[".repeat(100_000), 400, "bad_request"),
    ] {
        let mut peer = stand.connect();
        eprintln!("{line}");
        peer.say(request(line, headers, body)).hear().expect_error(status, code);
        // The connection is as good as before.
        assert_eq!(peer.say(request("GET /v1/version", "", "")).hear().status, 200, "after {line}");
    }
}

#[test]
fn what_is_no_http_is_answered_shortly_and_closed() {
    let stand = Stand::new(Limits::default());
    let long_line = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000));
    let many_headers = request("GET /v1/version", &"x: y\r\n".repeat(65), "");
    let large_header = request("GET /v1/version", &format!("x: {}\r\n", "y".repeat(17_000)), "");
    for (bytes, status) in [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400),
        (b"HELO there\r\n\r\n".to_vec(), 400),
        (b"GET / HTTP/9.9\r\n\r\n".to_vec(), 400),
        (b"GET /v1/version HTTP/1.1\r\nhost : x\r\n\r\n".to_vec(), 400),
        (b"GET /v1/version HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".to_vec(), 400),
        (b"GET /v1/version HTTP/1.1\r\ncontent-length: -1\r\n\r\n".to_vec(), 400),
        (b"POST /v1/guests HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n".to_vec(), 400),
        (long_line.into_bytes(), 431),
        (many_headers.into_bytes(), 431),
        (large_header.into_bytes(), 431),
    ] {
        let mut peer = stand.connect();
        let answer = peer.say(&bytes).hear();
        let shown = bytes.escape_ascii().to_string();
        assert_eq!(answer.status, status, "{}: {answer:?}", &shown[..shown.len().min(100)]);
        peer.expect_end();
    }
    stand.assert_serves();
}

#[test]
fn requests_sent_at_once_are_answered_in_order() {
    let stand = Stand::new(Limits::default());
    let mut peer = stand.connect();
    let three = ["GET /v1/version", "GET /v1/guests/nobody", "HEAD /v1/version"].map(|line| request(line, "", ""));
    peer.say(three.concat() + "\x00garbage\r\n\r\n");
    let version = peer.hear();
    assert!(version.status == 200 && version.body.contains("host-a"), "{version:?}");
    peer.hear().expect_error(404, "not_found");
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut peer.0, &mut byte).unwrap();
        head.push(byte[0].into());
    }
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(peer.hear().status, 400);
    peer.expect_end();
    stand.assert_serves();
}

#[test]
fn half_a_request_does_nothing() {
    let stand = Stand::new(Limits::default());
    let whole = request("PUT /v1/modules/xyz", "", "0123456789");
    for length in [1, 10, whole.len() - 11, whole.len() - 1] {
        let mut peer = stand.connect();
        peer.say(&whole[..length]);
    }
    stand.assert_serves();
}

#[test]
fn the_description_is_served() {
    let stand = Stand::new(Limits::default());
    let answer = stand.connect().say(request("GET /v1/openapi.json", "", "")).hear();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.body, roam_runtime::host::serve::openapi());
}
