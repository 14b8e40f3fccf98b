//! The committed descriptions of the interfaces are those that are served.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use roam_runtime::{controller, host};
use serde_json::Value;

/// Set to write the file instead of comparing it.
const WRITE: &str = "ROAM_WRITE_OPENAPI";

const HOST: [&str; 23] = [
    "cancel_migration",
    "checkpoint_guest",
    "create_guest",
    "delete_guest",
    "delete_module",
    "guest_logs",
    "guest_stats",
    "health",
    "inspect_guest",
    "keep_checkpoint",
    "list_guests",
    "list_migrations",
    "list_modules",
    "metrics",
    "migrate_guest",
    "put_module",
    "read_module",
    "restore_guest",
    "show_migration",
    "start_guest",
    "stop_guest",
    "version",
    "watch_migration",
];
const CONTROLLER: [&str; 18] = [
    "claim_route",
    "close_front",
    "health",
    "heartbeat",
    "join_host",
    "leave_host",
    "list_fronts",
    "list_hosts",
    "list_routes",
    "metrics",
    "move_route",
    "open_front",
    "release_route",
    "settle_route",
    "show_route",
    "status",
    "version",
    "watch",
];

/// File and text of each.
fn descriptions() -> [(&'static str, String); 2] {
    [("openapi.json", host::serve::openapi()), ("openapi-sdn.json", controller::openapi())]
}

#[test]
fn the_committed_descriptions_are_current() {
    for (file, served) in descriptions() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(file);
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&path, &served).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == served,
            "{file} is not what is served; `{WRITE}=1 cargo test --release -p roam-runtime --test openapi` writes it"
        );
    }
}

/// The operations of a description, each with what it must have.
fn operations(description: &Value) -> Vec<String> {
    let mut operations = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        assert!(path.starts_with("/v1/") || path == "/metrics", "{path} has no version");
        for (method, operation) in item.as_object().unwrap() {
            operations.push(operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path}")).to_owned());
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path} never succeeds");
        }
    }
    operations.sort();
    operations
}

#[test]
fn each_operation_is_described() {
    let [host, controller] = descriptions().map(|(_, text)| serde_json::from_str::<Value>(&text).unwrap());
    assert_eq!(operations(&host), HOST);
    assert_eq!(operations(&controller), CONTROLLER);
    // What a description refers to is in it.
    for description in [host, controller] {
        let text = description.to_string();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(description["components"]["schemas"][name].is_object(), "{name} is not described");
        }
    }
}
