//! Those who follow.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;

use roam_sdn::controller::Move;
use roam_sdn::model::{Address, Kind};
use serde_json::{Value, json};

use crate::stand::{Stand, claim, mac, request, to};

/// One that follows, over the socket.
struct Follower {
    stream: BufReader<UnixStream>,
    text: String,
    whole: bool,
}

#[derive(Debug)]
struct Event {
    name: String,
    id: u64,
    data: Value,
}

impl Follower {
    fn new(stand: &Stand, query: &str, header: &str) -> Self {
        let mut peer = stand.connect();
        peer.say(format!("GET /v1/watch{query} HTTP/1.1\r\nhost: x\r\n{header}\r\n"));
        let mut stream = BufReader::new(peer.0);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
        Self { stream, text: String::new(), whole: false }
    }

    /// The next event; `None` at the end of a body that is whole.
    fn event(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let fields: BTreeMap<_, _> = block.lines().filter_map(|line| line.split_once(": ")).collect();
                let event = fields.get("event").map(|name| Event {
                    name: (*name).to_owned(),
                    id: fields["id"].parse().unwrap(),
                    data: serde_json::from_str(fields["data"]).unwrap(),
                });
                self.text = rest.to_owned();
                if event.is_some() {
                    return event;
                }
            }
            if self.whole {
                return None;
            }
            self.chunk();
        }
    }

    fn chunk(&mut self) {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let length = usize::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("no chunk: {line:?}"));
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk).unwrap();
        self.text += std::str::from_utf8(&chunk[..length]).unwrap();
        self.whole = length == 0;
    }

    fn expect(&mut self, name: &str, id: u64) -> Value {
        let event = self.event().unwrap_or_else(|| panic!("the end, and no {name}"));
        assert_eq!((event.name.as_str(), event.id), (name, id), "{event:?}");
        event.data
    }
}

#[test]
fn what_changes_is_told_in_order_and_gone_on_with() {
    let stand = Stand::with_hosts();
    let mut early = Follower::new(&stand, "", "");
    let table = early.expect("table", 2);
    assert_eq!((&table["hosts"][1]["name"], &table["routes"]), (&json!("host-b"), &json!([])));
    assert_eq!(stand.ask("POST /v1/routes", &claim("host-a", 1)).status, 201);
    assert_eq!(stand.ask(&format!("POST /v1/routes/{}/move", mac(1)), &to("host-b", 1)).status, 200);
    let owner = |update: &Value| update["changes"][0]["route"]["placement"]["host"].clone();
    assert_eq!(owner(&early.expect("update", 3)), "host-a");
    assert_eq!(owner(&early.expect("update", 4)), "host-b");
    // Whoever was here already is told what it has missed, and nothing twice.
    assert_eq!(owner(&Follower::new(&stand, "?after=3", "").expect("update", 4)), "host-b");
    let mut resumed = Follower::new(&stand, "", "Last-Event-ID: 2\r\n");
    assert_eq!(owner(&resumed.expect("update", 3)), "host-a");
    // The parameter is newer than what a browser remembers by itself.
    Follower::new(&stand, "?after=3", "last-event-id: 2\r\n").expect("update", 4);
    // A revision of another table.
    let table = Follower::new(&stand, "?after=99", "").expect("table", 4);
    assert_eq!(table["routes"].as_array().unwrap().len(), 1);
}

#[test]
fn a_watch_ends_with_the_controller_and_says_so() {
    let mut stand = Stand::with_hosts();
    let mut followers = [Follower::new(&stand, "?figures=true", ""), Follower::new(&stand, "?after=2", "")];
    followers[0].expect("table", 2);
    stand.go_down();
    stand.wait_down();
    for follower in &mut followers {
        let last = std::iter::from_fn(|| follower.event()).last().unwrap();
        assert_eq!((last.name.as_str(), last.id), ("goodbye", 2));
    }
}

#[test]
fn figures_come_for_those_who_ask_and_skip_no_update() {
    let stand = Stand::with_hosts();
    let mut both = [Follower::new(&stand, "?figures=true", ""), Follower::new(&stand, "?figures=true&after=2", "")];
    let mut plain = Follower::new(&stand, "?figures=false", "");
    both[0].expect("table", 2);
    plain.expect("table", 2);
    for follower in &mut both {
        assert_eq!(follower.expect("figures", 2), json!([]));
    }
    assert_eq!(stand.ask("POST /v1/routes", &claim("host-a", 1)).status, 201);
    for follower in &mut both {
        let events = std::iter::from_fn(|| follower.event());
        let update = events.map(|event| (event.name.clone(), event)).find(|(name, _)| name == "update");
        assert_eq!(update.map(|(_, event)| event.id), Some(3));
        let figures = follower.expect("figures", 3);
        assert_eq!(figures[0]["address"]["mac"], mac(1));
    }
    plain.expect("update", 3);
}

#[test]
fn who_does_not_read_holds_up_nobody_and_gets_the_table_again() {
    const CHANGES: u32 = 12_000;
    let stand = Stand::with_hosts();
    let mut lazy = Follower::new(&stand, "", "");
    lazy.expect("table", 2);
    stand.runtime.block_on(async {
        let host = |number: u32| if number.is_multiple_of(2) { "host-a" } else { "host-b" }.parse().unwrap();
        let address = Address { mac: mac(1).parse().unwrap(), ip: None, ip6: None, name: None };
        let mac = address.mac;
        let claimed = stand.controller.claim(address, host(0), None).await.unwrap();
        let mut generation = claimed.route.unwrap().placement.generation;
        for number in 1..=CHANGES {
            let moved = stand.controller.move_to(mac, Move::new(host(number), generation)).await.unwrap();
            generation = moved.route.unwrap().placement.generation;
        }
    });
    let last = u64::from(CHANGES) + 3;
    assert_eq!(stand.asked("GET /v1/status")["revision"], last);
    // Far more than is kept, for it and in all: what it reads first is old, then it is told that it has missed some.
    let (mut told, mut tables) = (2, 0);
    while told < last {
        let event = lazy.event().unwrap();
        match event.name.as_str() {
            "table" => tables += 1,
            _ => assert_eq!(event.id, told + 1, "{event:?}"),
        }
        told = event.id;
    }
    assert_eq!((told, tables), (last, 1));
    // And one that comes too late for what is kept.
    Follower::new(&stand, "?after=5", "").expect("table", last);
}

#[test]
fn hundreds_may_follow() {
    let stand = Stand::with_hosts();
    let mut followers: Vec<_> = (0..200).map(|_| Follower::new(&stand, "", "")).collect();
    let vtep: IpAddr = "172.30.0.3".parse().unwrap();
    stand.runtime.block_on(stand.controller.join("host-c".parse().unwrap(), Kind::Host, vtep, None)).unwrap();
    for follower in &mut followers {
        follower.expect("table", 2);
        follower.expect("update", 3);
    }
    drop(followers);
    let head = stand.connect().say(request("HEAD /v1/watch", &Value::Null)).0.try_clone();
    drop(head);
    assert_eq!(stand.asked("GET /v1/health")["healthy"], true);
}
