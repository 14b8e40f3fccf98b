//! Whose certificate may do what.

use std::io::{Read, Write};

use roam_runtime::cert::Role;
use serde_json::{Value, json};

use crate::common::peer::Raw;
use crate::stand::{Stand, ask, claim, mac, placed, to};

fn allowed(peer: &mut Raw<impl Read + Write>, line: &str, body: Value) {
    let answer = ask(peer, line, &body);
    assert!((200..300).contains(&answer.status), "{line}: {answer:?}");
}

fn forbidden(peer: &mut Raw<impl Read + Write>, line: &str, body: Value) {
    ask(peer, line, &body).expect_error(403, "forbidden");
}

#[test]
fn a_host_looks_at_everything_and_changes_what_is_its_own() {
    let stand = Stand::with_tls(&["host-a", "host-b"]);
    let mut a = stand.connect_as("host-a", Role::Host);
    let mut b = stand.connect_as("host-b", Role::Host);
    let mut alice = stand.connect_as("alice", Role::Operator);
    let join = |number: u8| json!({"kind": "host", "vtep": format!("172.30.0.{number}")});
    let beat = json!({"applied": null, "plane": null});
    forbidden(&mut a, "PUT /v1/hosts/host-b", join(1));
    forbidden(&mut a, "PUT /v1/hosts/host-a", json!({"kind": "gateway", "vtep": "172.30.0.1"}));
    allowed(&mut a, "PUT /v1/hosts/host-a", join(1));
    allowed(&mut b, "PUT /v1/hosts/host-b", join(2));
    allowed(&mut a, "POST /v1/hosts/host-a/heartbeat", beat.clone());
    forbidden(&mut a, "POST /v1/hosts/host-b/heartbeat", beat);
    forbidden(&mut a, "POST /v1/routes", claim("host-b", 1));
    allowed(&mut a, "POST /v1/routes", claim("host-a", 1));
    let path = format!("/v1/routes/{}", mac(1));
    // To itself, from whomever; to another what it has, and only that.
    forbidden(&mut b, &format!("POST {path}/move"), to("host-a", 1));
    let mut draining = to("host-b", 1);
    draining["drain"] = json!(true);
    allowed(&mut b, &format!("POST {path}/move"), draining);
    forbidden(&mut a, &format!("POST {path}/settle?generation=2"), Value::Null);
    forbidden(&mut a, &format!("DELETE {path}?generation=2"), Value::Null);
    // What it takes for its own, but is not any more.
    ask(&mut a, &format!("DELETE {path}?generation=1"), &Value::Null).expect_error(409, "fenced");
    allowed(&mut b, &format!("POST {path}/settle?generation=2"), Value::Null);
    // In a migration as well: what a host gets, or keeps, is its own.
    let incarnation = serde_json::from_str::<Value>(&ask(&mut a, "GET /v1/version", &Value::Null).body).unwrap();
    let incarnation = &incarnation["incarnation"];
    for extra in [json!({"early": true}), json!({"incarnation": incarnation})] {
        let mut asked = to("host-b", 1);
        asked.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        forbidden(&mut a, &format!("POST {path}/move"), asked.clone());
        allowed(&mut b, &format!("POST {path}/move"), asked);
    }
    ask(&mut a, &format!("POST {path}/move"), &to("host-b", 1)).expect_error(409, "fenced");
    allowed(&mut b, &format!("POST {path}/move"), to("host-b", 2));
    forbidden(&mut a, &format!("POST {path}/move"), to("host-b", 4));
    allowed(&mut b, &format!("POST {path}/move"), to("host-a", 3));
    ask(&mut b, &format!("POST {path}/move"), &to("host-a", 2)).expect_error(409, "fenced");
    allowed(&mut a, &format!("POST {path}/move"), to("host-b", 4));
    for path in ["routes", "hosts", "fronts", "status", "health", "version", "openapi.json", "../metrics"] {
        let path = if path == "../metrics" { "/metrics".to_owned() } else { format!("/v1/{path}") };
        allowed(&mut a, &format!("GET {path}"), Value::Null);
    }
    let front = json!({"protocol": "udp", "listen": "192.0.2.1:53", "to": "10.90.1.2:53"});
    forbidden(&mut a, "PUT /v1/fronts", front.clone());
    forbidden(&mut a, "DELETE /v1/fronts?protocol=udp&listen=192.0.2.1:53", Value::Null);
    forbidden(&mut b, "DELETE /v1/hosts/host-a", Value::Null);
    allowed(&mut b, &format!("DELETE {path}?generation=5"), Value::Null);
    allowed(&mut b, "DELETE /v1/hosts/host-b", Value::Null);
    // An operator does it all, in anybody's name.
    allowed(&mut alice, "PUT /v1/fronts", front);
    allowed(&mut alice, "PUT /v1/hosts/host-b", join(2));
    let (_, generation) = placed(&ask(&mut alice, "POST /v1/routes", &claim("host-a", 2)).body);
    allowed(&mut alice, &format!("POST /v1/routes/{}/move", mac(2)), to("host-b", generation));
    let shown = ask(&mut a, &format!("GET /v1/routes/{}", mac(2)), &Value::Null);
    assert_eq!(placed(&shown.body), ("host-b".to_owned(), generation + 1));
    assert!(stand.metric(r#"roam_api_rejected_total{reason="Role"}"#).unwrap() >= 9.0);
}
