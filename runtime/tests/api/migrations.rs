//! Migrations over the API: what is asked, by whom, and what is known of those that are over.

use std::path::Path;

use futures_util::StreamExt;
use roam_runtime::api::client::ClientError;
use roam_runtime::api::{ErrorCode, MigrateRequest, MigrationState, MigrationView};
use roam_runtime::cert::Role;
use roam_runtime::serve::Limits;
use serde_json::json;

use crate::stand::Stand;

const DONE: &str = "00000000000000000000000000000001";
const FAILED: &str = "00000000000000000000000000000002";

/// What a daemon before this one has left: one that went and one that did not.
pub(crate) fn write_history(state: &Path) {
    let progress = json!({
        "round": 3, "dirty_pages": 0, "dirty_pages_per_s": 0, "bytes_on_wire": 4096, "memory_bytes": 65536,
        "link_bytes_per_s": 0, "downtime_us_estimate": 0, "throttle_percent": 0,
    });
    let view = |id: &str, guest: &str, began_ms: u64| {
        json!({
            "id": id, "guest": guest, "direction": "outgoing", "from": "host-a", "to": "host-b", "plan": "pre_copy",
            "state": "done", "phase": "complete", "began_ms": began_ms, "ended_ms": began_ms + 1, "progress": progress,
        })
    };
    let (done, mut failed) = (view(DONE, "kv", 1), view(FAILED, "web", 2));
    (failed["state"], failed["phase"]) = ("failed".into(), "validate".into());
    failed["reason"] = json!({"code": "room", "message": "there is no room"});
    std::fs::create_dir_all(state).unwrap();
    std::fs::write(state.join("migrations.jsonl"), format!("{done}\n{failed}\n")).unwrap();
}

fn code<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> Option<ErrorCode> {
    answer.unwrap_err().code()
}

#[test]
fn those_that_are_over_are_known() {
    let stand = Stand::new(Limits::default());
    let client = stand.client();
    stand.shared.run(async {
        let all = client.migrations(None).await.unwrap();
        let ids: Vec<_> = all.iter().map(|view| view.id.as_str()).collect();
        assert_eq!(ids, [FAILED, DONE], "the newest first");
        assert_eq!(client.migrations(Some(&"kv".parse().unwrap())).await.unwrap(), [all[1].clone()]);
        assert_eq!(client.migrations(Some(&"nobody".parse().unwrap())).await.unwrap(), []);
        assert_eq!(client.migration(FAILED).await.unwrap().reason.unwrap().code, "room");
        let watched: Vec<MigrationView> =
            client.watch_migration(DONE).await.unwrap().map(|view| view.unwrap()).collect().await;
        assert_eq!(watched, [all[1].clone()], "it ends after the last");
        assert_eq!(watched[0].state, MigrationState::Done);
        assert_eq!(code(client.cancel_migration(DONE).await), Some(ErrorCode::Conflict));
        for id in ["nothing", "", "../guests", "%ff"] {
            assert_eq!(code(client.cancel_migration(id).await), Some(ErrorCode::NotFound), "{id}");
        }
        assert_eq!(code(client.migration("nothing").await), Some(ErrorCode::NotFound));
        assert_eq!(code(client.watch_migration("nothing").await.map(|_| ())), Some(ErrorCode::NotFound));
    });
}

#[test]
fn the_watch_is_server_sent_events() {
    let stand = Stand::new(Limits::default());
    let mut peer = stand.connect();
    peer.say(format!("GET /v1/migrations/{DONE}/watch HTTP/1.0\r\nhost: x\r\n\r\n"));
    let mut heard = String::new();
    std::io::Read::read_to_string(&mut peer.0, &mut heard).unwrap();
    let (head, body) = heard.split_once("\r\n\r\n").unwrap();
    assert!(head.to_lowercase().contains("content-type: text/event-stream"), "{head}");
    let data = body.strip_prefix("event: migration\ndata: ").and_then(|rest| rest.strip_suffix("\n\n")).unwrap();
    assert_eq!(serde_json::from_str::<MigrationView>(data).unwrap().id, DONE);
}

#[test]
fn what_cannot_be_is_refused() {
    let stand = Stand::new(Limits::default());
    let client = stand.client();
    let (name, to) = ("kv".parse().unwrap(), "host-b".parse().unwrap());
    stand.shared.run(async {
        let request = MigrateRequest::new(to);
        assert_eq!(code(client.migrate(&name, &request).await), Some(ErrorCode::NotFound));
        let long = MigrateRequest { downtime_us: 60_000_001, ..request.clone() };
        assert_eq!(code(client.migrate(&name, &long).await), Some(ErrorCode::Invalid));
    });
    for body in [r#"{}"#, r#"{"to":"B"}"#, r#"{"to":"b","plan":"beam"}"#, r#"{"to":"b","rounds":1}"#] {
        let request = format!(
            "POST /v1/guests/kv/migrate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stand.connect().say(request).hear().expect_error(400, "bad_request");
    }
}

#[test]
fn only_operators_ask() {
    let stand = Stand::with_tls(Limits::default());
    let (operator, host) = [("operator", Role::Operator), ("host", Role::Host)]
        .map(|(directory, role)| stand.tls_client(directory, role, "127.0.0.1"))
        .into();
    let name = "kv".parse().unwrap();
    let request = MigrateRequest::new("host-b".parse().unwrap());
    stand.shared.run(async {
        assert_eq!(operator.migrations(None).await.unwrap().len(), 2);
        let refused = [
            code(host.migrations(None).await),
            code(host.migration(DONE).await),
            code(host.watch_migration(DONE).await.map(|_| ())),
            code(host.cancel_migration(DONE).await),
            code(host.migrate(&name, &request).await),
        ];
        assert_eq!(refused, [Some(ErrorCode::Forbidden); 5]);
    });
}

/// `roam` with that host.
fn roam(stand: &Stand, arguments: &[&str]) -> (i32, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_roam"));
    command.args(arguments).arg("--host").arg(format!("unix:{}", stand.socket.display())).env_clear();
    let output = command.stdin(std::process::Stdio::null()).output().unwrap();
    let [out, error] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), out, error)
}

#[test]
fn the_command_line_shows_them() {
    let stand = Stand::new(Limits::default());
    let (code, table, error) = roam(&stand, &["migrations"]);
    assert_eq!((code, error.as_str()), (0, ""));
    let lines: Vec<_> = table.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("ID"), "{table}");
    assert!(lines[1].contains("failed in validate") && lines[1].ends_with("there is no room"), "{table}");
    let (_, json, _) = roam(&stand, &["migrations", "--json", "--guest", "kv"]);
    assert_eq!(serde_json::from_str::<Vec<MigrationView>>(&json).unwrap()[0].id, DONE);
    let (code, _, error) = roam(&stand, &["migrations", "--cancel", DONE]);
    assert!(code == 5 && error.contains("it is over"), "{code} {error}");
    assert_eq!(roam(&stand, &["migrations", "--cancel", "0"]).0, 2, "several begin so");
    assert_eq!(roam(&stand, &["migrations", "--cancel", "1"]).0, 4);
    let (code, _, error) = roam(&stand, &["migrate", "kv", "--to", "host-b"]);
    assert!(code == 4 && error.contains("`kv`"), "{code} {error}");
    let (code, _, error) = roam(&stand, &["migrate", "--all", "--to", "host-b"]);
    assert_eq!((code, error.as_str()), (0, ""), "there is nothing to move");
}
