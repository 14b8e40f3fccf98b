//! The committed description of the interface is the one that is served.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use roam_runtime::host::serve::openapi;

/// Set to write the file instead of comparing it.
const WRITE: &str = "ROAM_WRITE_OPENAPI";

#[test]
fn the_committed_description_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("openapi.json");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, openapi()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == openapi(),
        "openapi.json is not what is served; `{WRITE}=1 cargo test --release -p roam-runtime --test openapi` writes it"
    );
}

#[test]
fn each_operation_is_described() {
    let description: serde_json::Value = serde_json::from_str(&openapi()).unwrap();
    let paths = description["paths"].as_object().unwrap();
    let mut operations = Vec::new();
    for (path, item) in paths {
        assert!(path.starts_with("/v1/") || path == "/metrics", "{path} has no version");
        for (method, operation) in item.as_object().unwrap() {
            operations.push(operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path}")).to_owned());
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path} never succeeds");
        }
    }
    operations.sort();
    assert_eq!(
        operations,
        [
            "create_guest",
            "delete_guest",
            "delete_module",
            "guest_logs",
            "guest_stats",
            "health",
            "inspect_guest",
            "list_guests",
            "list_modules",
            "metrics",
            "put_module",
            "read_module",
            "start_guest",
            "stop_guest",
            "version"
        ]
    );
    // What a description refers to is in it.
    let text = description.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(description["components"]["schemas"][name].is_object(), "{name} is not described");
    }
}
