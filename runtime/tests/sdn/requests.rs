//! Every route, and requests that are wrong.

use std::sync::Barrier;

use serde_json::{Value, json};

use crate::stand::{Stand, ask, claim, mac, placed, to};

#[test]
fn the_life_of_an_address() {
    let stand = Stand::with_hosts();
    let address = json!({"mac": mac(1), "ip": "10.90.1.2", "ip6": "fd90::2", "name": "kv"});
    let claimed = stand.ask("POST /v1/routes", &json!({"address": address, "host": "host-a"}));
    assert_eq!((claimed.status, claimed.header("location")), (201, Some("/v1/routes/02:00:00:00:00:01")));
    assert_eq!(placed(&claimed.body), ("host-a".to_owned(), 1));
    // Again, as after a restart: nothing changes.
    let again = stand.ask("POST /v1/routes", &json!({"address": address, "host": "host-a", "held": 1}));
    assert_eq!((again.status, placed(&again.body)), (201, ("host-a".to_owned(), 1)));
    for called in [&mac(1), "10.90.1.2", "fd90::2", "kv", "FD90:0::2"] {
        let shown = stand.asked(&format!("GET /v1/routes/{called}"));
        assert_eq!((&shown["address"], &shown["presence"]), (&address, &json!("live")), "{called}");
    }
    let moved = stand.ask("POST /v1/routes/kv/move", &json!({"to": "host-b", "from": 1, "drain": true}));
    assert_eq!((moved.status, placed(&moved.body)), (200, ("host-b".to_owned(), 2)));
    let route = stand.asked("GET /v1/routes/kv");
    assert_eq!((&route["placement"]["via"], &route["last_switch"]["from"]), (&json!("host-a"), &json!("host-a")));
    assert_eq!(stand.ask("POST /v1/routes/kv/settle?generation=2", &Value::Null).status, 200);
    assert!(stand.asked("GET /v1/routes/kv")["placement"]["via"].is_null());
    assert_eq!(stand.asked("GET /v1/routes?counters=true").as_array().unwrap().len(), 1);
    assert_eq!(stand.asked("GET /v1/status")["switches"], 1);
    assert_eq!(stand.metric("roam_sdn_switches_total"), Some(1.0));
    assert_eq!(stand.metric("roam_sdn_switch_seconds_count"), Some(1.0));
    assert_eq!(stand.metric(r#"roam_sdn_addresses{host="host-b"}"#), Some(1.0));
    assert_eq!(stand.metric(r#"roam_sdn_hosts{presence="live"}"#), Some(2.0));
    let revision = stand.asked("GET /v1/status")["revision"].as_f64();
    assert_eq!(stand.metric("roam_sdn_revision"), revision);
    assert_eq!(stand.ask("DELETE /v1/routes/kv?generation=2", &Value::Null).status, 200);
    assert_eq!(stand.asked("GET /v1/routes"), json!([]));
}

#[test]
fn a_target_is_answered_early_and_a_source_by_this_incarnation_only() {
    let stand = Stand::with_hosts();
    for number in [1, 2] {
        assert_eq!(stand.ask("POST /v1/routes", &claim("host-a", number)).status, 201);
    }
    let incarnation = stand.asked("GET /v1/status")["incarnation"].as_u64().unwrap();
    let moved = |number, asked: &Value| stand.ask(&format!("POST /v1/routes/{}/move", mac(number)), asked);
    let target = json!({"to": "host-b", "from": 1, "early": true});
    let source = |incarnation| json!({"to": "host-a", "from": 1, "incarnation": incarnation});
    let durable = |body: &str| serde_json::from_str::<Value>(body).unwrap()["durable"].clone();
    // The target is first. Asked again without `early`, it is on disk.
    for (asked, kept) in [(&target, false), (&target, false), (&to("host-b", 1), true)] {
        let answer = moved(1, asked);
        assert_eq!((answer.status, placed(&answer.body)), (200, ("host-b".to_owned(), 2)));
        assert_eq!(durable(&answer.body), kept);
    }
    moved(1, &source(incarnation)).expect_error(409, "fenced");
    // The source is first.
    moved(2, &source(incarnation ^ 1)).expect_error(409, "unsettled");
    for _ in 0..2 {
        let answer = moved(2, &source(incarnation));
        assert_eq!((answer.status, placed(&answer.body)), (200, ("host-a".to_owned(), 2)));
        assert_eq!(durable(&answer.body), true);
    }
    moved(2, &target).expect_error(409, "fenced");
    // What went nowhere is no switch, and what is not on disk took no time to get there.
    assert_eq!(stand.asked("GET /v1/status")["switches"], 1);
    assert_eq!(stand.metric("roam_sdn_switch_seconds_count"), Some(5.0));
    assert_eq!(stand.metric("roam_sdn_switch_durable_seconds_count"), Some(3.0));
}

#[test]
fn hosts_and_fronts_come_and_go() {
    let stand = Stand::with_hosts();
    let hosts = stand.asked("GET /v1/hosts");
    assert_eq!((&hosts[0]["name"], &hosts[1]["vtep"]), (&json!("host-a"), &json!("172.30.0.2")));
    let beat = json!({"applied": 2, "plane": null});
    let heard = stand.ask("POST /v1/hosts/host-a/heartbeat", &beat);
    let incarnation = stand.asked("GET /v1/status")["incarnation"].clone();
    let heard: Value = serde_json::from_str(&heard.body).unwrap();
    assert_eq!(heard, json!({"revision": 2, "incarnation": incarnation}));
    assert_eq!(stand.asked("GET /v1/version")["incarnation"], incarnation);
    assert_eq!(stand.asked("GET /v1/hosts")[0]["applied"], 2);
    // Where it takes migrations is told when it joins, and told anew.
    for at in ["172.30.0.1:7445", "172.30.0.1:7446"] {
        let join = json!({"kind": "host", "vtep": "172.30.0.1", "migrate": at});
        assert_eq!(stand.ask("PUT /v1/hosts/host-a", &join).status, 200);
        assert_eq!(stand.asked("GET /v1/hosts")[0]["migrate"], at);
    }
    assert!(stand.asked("GET /v1/hosts")[1].get("migrate").is_none());
    assert_eq!(stand.ask("DELETE /v1/hosts/host-b", &Value::Null).status, 200);
    assert_eq!(stand.asked("GET /v1/hosts").as_array().unwrap().len(), 1);
    let front = json!({"protocol": "tcp", "listen": "[2001:db8::1]:80", "to": "[fd90::2]:8080"});
    assert_eq!(stand.ask("PUT /v1/fronts", &front).status, 200);
    assert_eq!(stand.asked("GET /v1/fronts"), json!([front]));
    let gone = "DELETE /v1/fronts?protocol=tcp&listen=%5B2001%3Adb8%3A%3A1%5D%3A80";
    assert_eq!(stand.ask(gone, &Value::Null).status, 200);
    assert_eq!(stand.asked("GET /v1/fronts"), json!([]));
}

#[test]
fn the_controller_says_what_and_how_it_is() {
    let stand = Stand::new();
    assert_eq!(stand.asked("GET /v1/health"), json!({"healthy": true, "problems": []}));
    assert_eq!(stand.asked("GET /v1/version")["node"], "gateway");
    let status = stand.asked("GET /v1/status");
    assert_eq!((&status["node"], &status["plane"]), (&json!("gateway"), &Value::Null));
    let answer = stand.ask("GET /v1/openapi.json", &Value::Null);
    assert_eq!(answer.body, roam_runtime::controller::openapi());
}

#[test]
fn every_refusal_has_code_and_sentence() {
    let stand = Stand::with_hosts();
    let named = |number, name: &str| json!({"address": {"mac": mac(number), "name": name}, "host": "host-a"});
    for number in [1, 2] {
        assert_eq!(stand.ask("POST /v1/routes", &named(number, "twin")).status, 201);
    }
    let with_ip = |number| json!({"address": {"mac": mac(number), "ip": "10.90.1.9"}, "host": "host-a"});
    assert_eq!(stand.ask("POST /v1/routes", &with_ip(3)).status, 201);
    let one = |rest: &str| format!("{}{rest}", mac(1));
    let gateway = json!({"kind": "gateway", "vtep": "172.30.0.9"});
    assert_eq!(stand.ask("PUT /v1/hosts/other", &gateway).status, 200);
    let nowhere = json!({"address": {"mac": mac(9), "ip": "224.0.0.1"}, "host": "host-a"});
    for (line, body, status, code) in [
        ("POST /v1/routes".to_owned(), claim("host-b", 1), 409, "fenced"),
        ("POST /v1/routes".to_owned(), with_ip(4), 409, "conflict"),
        ("POST /v1/routes".to_owned(), claim("host-c", 9), 404, "not_found"),
        ("POST /v1/routes".to_owned(), claim("other", 9), 422, "invalid"),
        ("POST /v1/routes".to_owned(), json!({"address": {"mac": "01:00:00:00:00:00"}}), 400, "bad_request"),
        ("POST /v1/routes".to_owned(), json!({"address": {"mac": mac(9)}, "hots": "a"}), 400, "bad_request"),
        (format!("POST /v1/routes/{}", one("/move")), to("host-b", 7), 409, "fenced"),
        (
            format!("POST /v1/routes/{}", one("/move")),
            json!({"to": "host-b", "from": 1, "incarnation": 1}),
            409,
            "unsettled",
        ),
        (format!("POST /v1/routes/{}", one("/move")), to("nobody", 1), 404, "not_found"),
        ("POST /v1/routes/twin/move".to_owned(), to("host-b", 1), 409, "conflict"),
        ("POST /v1/routes/nobody/move".to_owned(), to("host-b", 1), 404, "not_found"),
        (format!("POST /v1/routes/{}", one("/settle?generation=8")), Value::Null, 409, "fenced"),
        (format!("DELETE /v1/routes/{}", one("?generation=8")), Value::Null, 409, "fenced"),
        (format!("DELETE /v1/routes/{}", one("")), Value::Null, 400, "bad_request"),
        ("GET /v1/routes/10.90.1.1".to_owned(), Value::Null, 404, "not_found"),
        ("GET /v1/routes?counter=true".to_owned(), Value::Null, 400, "bad_request"),
        ("PUT /v1/hosts/Host".to_owned(), gateway.clone(), 400, "bad_request"),
        ("PUT /v1/hosts/host-c".to_owned(), gateway, 409, "conflict"),
        ("POST /v1/routes".to_owned(), nowhere, 422, "invalid"),
        ("PUT /v1/hosts/host-c".to_owned(), json!({"kind": "host", "vtep": "224.0.0.1"}), 422, "invalid"),
        (
            "PUT /v1/hosts/host-c".to_owned(),
            json!({"kind": "host", "vtep": "172.30.0.3", "migrate": "0.0.0.0:7445"}),
            422,
            "invalid",
        ),
        ("POST /v1/hosts/host-c/heartbeat".to_owned(), json!({"applied": null, "plane": null}), 404, "not_found"),
        ("DELETE /v1/hosts/host-a".to_owned(), Value::Null, 409, "conflict"),
        ("DELETE /v1/hosts/host-c".to_owned(), Value::Null, 404, "not_found"),
        (
            "PUT /v1/fronts".to_owned(),
            json!({"protocol": "tcp", "listen": "192.0.2.1:1", "to": "[::1]:1"}),
            422,
            "invalid",
        ),
        ("DELETE /v1/fronts?protocol=tcp&listen=192.0.2.1:1".to_owned(), Value::Null, 404, "not_found"),
        ("DELETE /v1/fronts?protocol=sctp&listen=192.0.2.1:1".to_owned(), Value::Null, 400, "bad_request"),
        ("GET /v1/watch?after=soon".to_owned(), Value::Null, 400, "bad_request"),
        ("GET /v1/guests".to_owned(), Value::Null, 404, "not_found"),
        ("PATCH /v1/routes".to_owned(), Value::Null, 405, "method_not_allowed"),
    ] {
        eprintln!("{line}");
        stand.ask(&line, &body).expect_error(status, code);
    }
    // Nothing of it has changed anything.
    assert_eq!(stand.asked("GET /v1/routes").as_array().unwrap().len(), 3);
}

#[test]
fn of_two_who_claim_at_once_one_is_told_so() {
    const ADDRESSES: u32 = 200;
    let stand = Stand::with_hosts();
    let barrier = Barrier::new(2);
    let claims = |host: &'static str| {
        let (mut peer, barrier) = (stand.connect(), &barrier);
        move || {
            let answers = (0..ADDRESSES).map(|number| {
                barrier.wait();
                ask(&mut peer, "POST /v1/routes", &claim(host, number))
            });
            answers.collect::<Vec<_>>()
        }
    };
    let (a, b) = std::thread::scope(|scope| {
        let (a, b) = (scope.spawn(claims("host-a")), scope.spawn(claims("host-b")));
        (a.join().unwrap(), b.join().unwrap())
    });
    let mut peer = stand.connect();
    for (number, (a, b)) in a.iter().zip(&b).enumerate() {
        let (won, lost) = if a.status == 201 { (a, b) } else { (b, a) };
        assert_eq!(won.status, 201, "{a:?} {b:?}");
        lost.expect_error(409, "fenced");
        let owner = placed(&ask(&mut peer, &format!("GET /v1/routes/{}", mac(number as u32)), &Value::Null).body);
        assert_eq!(owner, placed(&won.body));
        assert!(lost.body.contains(&owner.0), "{lost:?}");
    }
}

#[test]
fn a_generation_that_is_over_changes_nothing() {
    let stand = Stand::with_hosts();
    let path = format!("/v1/routes/{}", mac(1));
    assert_eq!(stand.ask("POST /v1/routes", &claim("host-a", 1)).status, 201);
    for (generation, host) in [(1, "host-b"), (2, "host-a"), (3, "host-b")] {
        assert_eq!(stand.ask(&format!("POST {path}/move"), &to(host, generation)).status, 200);
    }
    // The host that had it is back, and does not know.
    let mut back = claim("host-a", 1);
    back["held"] = json!(3);
    stand.ask("POST /v1/routes", &back).expect_error(409, "fenced");
    stand.ask(&format!("POST {path}/move"), &to("host-a", 3)).expect_error(409, "fenced");
    stand.ask(&format!("DELETE {path}?generation=3"), &Value::Null).expect_error(409, "fenced");
    assert_eq!(placed(&stand.ask(&format!("GET {path}"), &Value::Null).body), ("host-b".to_owned(), 4));
    assert_eq!(stand.ask(&format!("DELETE {path}?generation=4"), &Value::Null).status, 200);
    stand.ask("POST /v1/routes", &back).expect_error(409, "fenced");
    let anew = stand.ask("POST /v1/routes", &claim("host-a", 1));
    assert!(anew.status == 201 && placed(&anew.body).1 > 4, "{anew:?}");
}
