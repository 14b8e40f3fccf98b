//! nftables through nft(8): its grammar is the stable way in, and a change that takes milliseconds is on no fast path.
//! It acts in the network namespace of the thread that calls.

use std::io::{ErrorKind, Write};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::plane::PlaneError;

/// How much of what `nft` says is passed on.
const SAID_CHARS_MAX: usize = 300;

/// One transaction: all of these commands, or none.
pub(crate) fn run(commands: &str, doing: &str) -> Result<(), PlaneError> {
    let output = call(&["-f", "-"], commands)?;
    if output.status.success() { Ok(()) } else { Err(failed(&output, doing)) }
}

/// What a table holds, as the list in nft's JSON (libnftables-json(5)); `None` if there is no such table.
pub(crate) fn table(family: &str, name: &str) -> Result<Option<Vec<Value>>, PlaneError> {
    let output = call(&["-j", "list", "table", family, name], "")?;
    if !output.status.success() {
        let absent = String::from_utf8_lossy(&output.stderr).contains("No such file or directory");
        return if absent { Ok(None) } else { Err(failed(&output, "list the rules of nftables")) };
    }
    let document: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| PlaneError::Program { program: "nft", how: format!("its JSON cannot be read: {error}") })?;
    match document.get("nftables").and_then(Value::as_array) {
        Some(list) => Ok(Some(list.clone())),
        None => Err(PlaneError::Program { program: "nft", how: "its JSON has no list `nftables`".into() }),
    }
}

/// The elements of a set or map of that list.
pub(crate) fn elements<'a>(list: &'a [Value], kind: &str, name: &str) -> impl Iterator<Item = &'a Value> {
    let found = list.iter().filter_map(|item| item.get(kind)).find(|set| set["name"] == name);
    found.and_then(|set| set["elem"].as_array()).into_iter().flatten()
}

fn call(arguments: &[&str], input: &str) -> Result<Output, PlaneError> {
    let broke = |source| PlaneError::Refused { doing: "run nft".into(), source };
    let mut command = Command::new("nft");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| match source.kind() {
        ErrorKind::NotFound => PlaneError::Program {
            program: "nft",
            how: "there is no such program; install nftables (Debian: apt-get install nftables)".into(),
        },
        _ => broke(source),
    })?;
    let mut stdin = child.stdin.take().expect("it was asked for above");
    // Who does not listen to the end says why.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().map_err(broke)?;
    if output.status.success() {
        written.map_err(broke)?;
    }
    Ok(output)
}

fn failed(output: &Output, doing: &str) -> PlaneError {
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("Operation not permitted") {
        return PlaneError::Permission { doing: doing.into() };
    }
    let said: String = said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SAID_CHARS_MAX).collect();
    PlaneError::Program { program: "nft", how: format!("cannot {doing}: {said}") }
}
