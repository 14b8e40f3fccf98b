//! Guests and the programs people have: ping, curl, nc, memcached's tools.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::thread;

use common::{Bed, LIMIT, ask, echo_both_ways, has, optional_wasm, read_chargen, skip};
use roam_abi::pattern;

const NC: (&str, &str) = ("nc", "netcat-openbsd");
const CURL: (&str, &str) = ("curl", "curl");
const MEMCACHED: (&str, &str) = ("memccapable", "libmemcached-tools");

#[test]
fn ping_and_ping6() {
    let Some(bed) = Bed::new() else { return };
    if !has("ping", "iputils-ping") {
        return;
    }
    let guest = bed.guest("square", 10, "");
    for line in [
        format!("ping -c 3 -i 0.1 {}", guest.ip),
        format!("ping -6 -c 3 -i 0.1 {}", guest.ip6),
        // Fragments both ways, put together by both sides.
        format!("ping -c 3 -i 0.1 -s 4000 {}", guest.ip),
        format!("ping -c 3 -i 0.1 -s 1472 -M do {}", guest.ip),
        format!("ping -6 -c 3 -i 0.1 -s 1452 -M do {}", guest.ip6),
        format!("ping -f -q -c 3000 {}", guest.ip),
        format!("ping -6 -f -q -c 3000 {}", guest.ip6),
    ] {
        let said = bed.call(&line, b"").text();
        assert!(said.contains(" 0% packet loss"), "{line}: {said}");
    }
}

#[test]
fn curl_keeps_its_connection() {
    let Some(bed) = Bed::new() else { return };
    if !has(CURL.0, CURL.1) {
        return;
    }
    let web = bed.guest("web", 13, "");
    for host in [web.ip.clone(), format!("[{}]", web.ip6)] {
        let url = format!("http://{host}/");
        let format = "%{http_code}:%{num_connects},";
        let said = bed
            .call(&format!("curl -sS -w {format} -o /dev/null -o /dev/null -o /dev/null {url} {url}none {url}"), b"");
        assert_eq!(said.text(), "200:1,404:0,200:0,");
        let page = bed.call(&format!("curl -sSf {url}"), b"").text();
        assert!(page.to_lowercase().contains("<html"), "{page}");
        let head = bed.call(&format!("curl -sSf -I {url}"), b"").text();
        assert!(
            head.contains(&format!("ontent-Length: {}", page.len()))
                || head.contains(&format!("ontent-length: {}", page.len())),
            "{head}"
        );
        let old = bed.call(&format!("curl -sS -0 -w %{{http_version}} -o /dev/null {url}"), b"").text();
        assert!(old.starts_with("1."), "{old}");
    }
}

#[test]
fn requests_are_answered_in_a_row() {
    let Some(bed) = Bed::new() else { return };
    if !has(NC.0, NC.1) {
        return;
    }
    let web = bed.guest("web", 13, "");
    let request = |method: &str, path: &str, more: &str| format!("{method} {path} HTTP/1.1\r\nHost: web\r\n{more}\r\n");
    let requests = [
        request("GET", "/", ""),
        request("HEAD", "/", ""),
        request("GET", "/none", ""),
        request("POST", "/upload", "Content-Length: 3\r\n") + "abc",
        request("GET", "/stream?bytes=10", ""),
        request("GET", "/", "Connection: close\r\n"),
    ];
    let said = bed.call(&format!("nc -w 10 {} 80", web.ip), requests.concat().as_bytes()).stdout;
    let said = String::from_utf8_lossy(&said);
    let statuses: Vec<&str> = said.match_indices("HTTP/1.1 ").map(|(at, head)| &said[at + head.len()..][..3]).collect();
    assert_eq!(statuses, ["200", "200", "404", "200", "200", "200"], "{said}");
    assert!(said.contains(blake3::hash(b"abc").to_hex().as_str()), "{said}");
}

#[test]
fn uploads_arrive_whole() {
    let Some(bed) = Bed::new() else { return };
    if !has(CURL.0, CURL.1) {
        return;
    }
    let web = bed.guest("web", 13, "");
    let mut body = vec![0; 10 << 20];
    pattern::fill(&mut body, 12345);
    let digest = blake3::hash(&body).to_hex();
    for (how, host) in [
        ("--data-binary @-", web.ip.clone()),
        ("--data-binary @-", format!("[{}]", web.ip6)),
        ("-T - -H Transfer-Encoding:chunked", web.ip.clone()),
        ("-T - -H Expect:", format!("[{}]", web.ip6)),
    ] {
        let said = bed.call(&format!("curl -sSf {how} http://{host}/upload"), &body).text();
        assert!(said.contains(digest.as_str()) && said.contains("10485760"), "{how} {host}: {said}");
    }
}

#[test]
fn streams_are_right_at_every_offset() {
    let Some(bed) = Bed::new() else { return };
    if !has(CURL.0, CURL.1) {
        return;
    }
    let web = bed.guest("web", 13, "");
    for (host, bytes, rate) in [
        (web.ip.clone(), 16 << 20, ""),
        (format!("[{}]", web.ip6), 16 << 20, ""),
        (web.ip.clone(), 300_000, "&rate=300000"),
    ] {
        let got = bed.call(&format!("curl -sSf http://{host}/stream?bytes={bytes}{rate}"), b"").stdout;
        assert_eq!((got.len(), pattern::matching(&got, 0)), (bytes, bytes));
    }
    // Endless: until the client has had enough.
    let got = bed.call(&format!("curl -sSf http://{}/stream?bytes=0", web.ip), b"").stdout;
    assert_eq!(got.len(), 0);
    let mut endless = bed.connect(&web.ip, 80);
    endless.write_all(b"GET /stream HTTP/1.1\r\nHost: web\r\n\r\n").unwrap();
    let mut piece = vec![0; 4 << 20];
    endless.read_exact(&mut piece).unwrap();
}

#[test]
fn squares_come_back_by_nc() {
    let Some(bed) = Bed::new() else { return };
    if !has(NC.0, NC.1) {
        return;
    }
    let square = bed.guest("square", 10, "");
    for (address, question, answer) in [
        (&square.ip, "12", "144"),
        (&square.ip6, "-111111111\n", "12345678987654321\n"),
        (&square.ip, "  99999999999999999999 \n", "9999999999999999999800000000000000000001\n"),
    ] {
        let said = bed.call(&format!("nc -u -w 1 {address} 7000"), question.as_bytes()).text();
        assert_eq!(said, answer);
    }
    let said = bed.call(&format!("nc -u -w 1 {} 7000", square.ip), b"twelve\n").text();
    assert!(said.starts_with("error: "), "{said}");
}

#[test]
fn squares_survive_any_datagram() {
    let Some(bed) = Bed::new() else { return };
    let square = bed.guest("square", 10, "");
    // The longest answer takes two frames: IPv4 has fragments for that, IPv6 here does not.
    for (ip, digits) in [(&square.ip, 1000), (&square.ip6, 700)] {
        let socket = bed.udp(ip, 7000);
        let long = vec![b'9'; digits];
        let huge = vec![b'7'; 9000];
        let noise: Vec<u8> = (0..=255).collect();
        for datagram in [&b""[..], b"\0", b"-", b"1 2", b"0x10", &noise, &vec![b'9'; 1400], &huge] {
            socket.send(datagram).unwrap();
            let mut answer = [0; 4096];
            match socket.recv(&mut answer) {
                Ok(length) => assert!(answer[..length].starts_with(b"error: "), "{}", answer[..length].escape_ascii()),
                // Only what one frame does not hold may go without an answer: not every fragment is put together.
                Err(_) => assert!(datagram.len() > 1400, "no answer to {} bytes", datagram.len()),
            }
        }
        let squared = [&long[1..], b"8", &vec![b'0'; digits - 1], b"1"].concat();
        ask(&socket, &long, &squared);
    }
}

#[test]
fn many_connections_echo_at_once() {
    let Some(bed) = Bed::new() else { return };
    let echo = bed.guest("echo", 11, "");
    for ip in [&echo.ip, &echo.ip6] {
        let streams: Vec<_> = (0..100).map(|_| bed.connect(ip, 7)).collect();
        thread::scope(|scope| {
            for stream in &streams {
                scope.spawn(|| echo_both_ways(stream, 100_000));
            }
        });
        ask(&bed.udp(ip, 7), b"hello", b"hello");
        read_chargen(&bed.connect(ip, 19), 0, 1 << 20);
        let mut sink = bed.connect(ip, 9);
        sink.write_all(&[7; 1 << 20]).unwrap();
        sink.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(sink.read(&mut [0; 16]).unwrap(), 0);
    }
}

#[test]
fn kv_speaks_memcached_by_nc() {
    let Some(bed) = Bed::new() else { return };
    if !has(NC.0, NC.1) {
        return;
    }
    let kv = bed.guest("kv", 12, "");
    let dialogue = [
        ("set a 5 0 3\r\none\r\n", "STORED\r\n"),
        ("add a 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
        ("replace b 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
        ("append a 0 0 4\r\n-two\r\n", "STORED\r\n"),
        ("prepend a 0 0 5\r\nzero-\r\n", "STORED\r\n"),
        ("set n 0 0 2\r\n41\r\n", "STORED\r\n"),
        ("incr n 1\r\n", "42\r\n"),
        ("decr n 100\r\n", "0\r\n"),
        ("incr nobody 1\r\n", "NOT_FOUND\r\n"),
        ("get a nobody n\r\n", "VALUE a 5 12\r\nzero-one-two\r\nVALUE n 0 2\r\n0 \r\nEND\r\n"),
        ("set quiet 0 0 1 noreply\r\nq\r\n", ""),
        ("get quiet\r\n", "VALUE quiet 0 1\r\nq\r\nEND\r\n"),
        ("touch a 100\r\n", "TOUCHED\r\n"),
        ("gat 100 quiet\r\n", "VALUE quiet 0 1\r\nq\r\nEND\r\n"),
        ("set gone 0 -1 1\r\nx\r\n", "STORED\r\n"),
        ("get gone\r\n", "END\r\n"),
        ("delete a\r\n", "DELETED\r\n"),
        ("delete a\r\n", "NOT_FOUND\r\n"),
        ("cas n 0 0 1 999999\r\nx\r\n", "EXISTS\r\n"),
        ("nonsense\r\n", "ERROR\r\n"),
        ("flush_all\r\n", "OK\r\n"),
        ("get n\r\n", "END\r\n"),
        ("verbosity 1\r\n", "OK\r\n"),
    ];
    let questions: String = dialogue.iter().map(|(question, _)| *question).collect();
    let answers: String = dialogue.iter().map(|(_, answer)| *answer).collect();
    for ip in [&kv.ip, &kv.ip6] {
        let said = bed.call(&format!("nc -w 10 {ip} 11211"), format!("{questions}quit\r\n").as_bytes()).text();
        assert_eq!(said, answers);
    }
}

#[test]
fn memcached_tools_find_nothing_wrong_with_kv() {
    let Some(bed) = Bed::new() else { return };
    if !has(MEMCACHED.0, MEMCACHED.1) {
        return;
    }
    let kv = bed.guest("kv", 12, "");
    let server = format!("--servers={}:11211", kv.ip);
    // libmemcached's own test of a server's ASCII protocol.
    let said = bed.client.call(&format!("memccapable -h {} -p 11211 -a", kv.ip), b"", LIMIT).unwrap();
    assert!(said.text().contains("All tests passed"), "{}{}", said.text(), said.stderr);
    bed.call(&format!("memcping {server}"), b"");
    let value: Vec<u8> = (0..200_000u32).map(|n| (n % 253) as u8).collect();
    let folder = std::env::temp_dir().join(format!("roam-test-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("value");
    std::fs::write(&file, &value).unwrap();
    let copied = bed.client.call(&format!("memccp {server} {}", file.display()), b"", LIMIT);
    let _ = std::fs::remove_dir_all(&folder);
    copied.unwrap().success().unwrap();
    let got = bed.call(&format!("memccat {server} value"), b"").stdout;
    assert!(got.starts_with(&value), "{} bytes of {}", got.len(), value.len());
    let stats = bed.call(&format!("memcstat {server}"), b"").text();
    assert!(stats.contains("curr_items") && stats.contains("version"), "{stats}");
    bed.call(&format!("memcexist {server} value"), b"");
    bed.call(&format!("memcrm {server} value"), b"");
    assert!(!bed.client.call(&format!("memcexist {server} value"), b"", LIMIT).unwrap().status.success());
}

#[test]
fn pymemcache_talks_to_kv() {
    const SCRIPT: &str = r#"
import sys
from pymemcache.client.base import Client
c = Client((sys.argv[1], 11211), timeout=10, connect_timeout=10, no_delay=True)
assert c.set("a", "one", expire=100, noreply=False)
assert c.get("a") == b"one"
assert c.add("a", "x", noreply=False) is False
assert c.append("a", b"-two", noreply=False)
assert c.get_many(["a", "b"]) == {"a": b"one-two"}
value, token = c.gets("a")
assert c.cas("a", "three", token, noreply=False) is True
assert c.cas("a", "four", token, noreply=False) is False
assert c.set_many({str(n): b"x" * n * 100 for n in range(100)}, noreply=False) == []
assert {int(k): len(v) for k, v in c.get_many([str(n) for n in range(100)]).items()} == {n: n * 100 for n in range(100)}
assert c.set("n", "10", noreply=False) and c.incr("n", 5) == 15 and c.decr("n", 20) == 0
assert c.touch("a", 10, noreply=False) and c.get("a") == b"three"
assert c.set("big", b"y" * 1000000, noreply=False) and len(c.get("big")) == 1000000
assert c.delete("a", noreply=False) and c.get("a") is None
assert b"version" in c.stats() and c.version()
assert c.flush_all(noreply=False) and c.get("n") is None
print("passed")
"#;
    let Some(bed) = Bed::new() else { return };
    // Debian's package is for Debian's Python, which need not be the first one.
    let knows = |python: &&str| {
        let said = bed.client.call(&format!("{python} -m pymemcache"), b"", LIMIT);
        said.is_ok_and(|said| said.stderr.contains("No module named pymemcache.__main__"))
    };
    let Some(python) = ["python3", "/usr/bin/python3"].into_iter().find(knows) else {
        return skip("no pymemcache: apt-get install python3-pymemcache, or pip install pymemcache");
    };
    let kv = bed.guest("kv", 12, "");
    for ip in [&kv.ip, &kv.ip6] {
        assert_eq!(bed.call(&format!("{python} - {ip}"), SCRIPT.as_bytes()).text(), "passed\n");
    }
}

#[test]
fn guests_of_other_toolchains_serve() {
    let Some(bed) = Bed::new() else { return };
    if let Some(module) = optional_wasm("echo-wasip1") {
        let echo = bed.serving(module, 21, "");
        ask(&bed.udp(&echo.ip, 7), b"hello", b"hello");
        echo_both_ways(&bed.connect(&echo.ip6, 7), 1 << 20);
    }
    if let Some(module) = optional_wasm("shout") {
        let shout = bed.serving(module, 22, "");
        ask(&bed.udp(&shout.ip, 7), b"hello", b"HELLO");
        let mut stream = bed.connect(&shout.ip6, 7);
        stream.write_all(b"is anybody there?").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "IS ANYBODY THERE?");
    }
}
