//! The controller's HTTP side against peers of every kind: a server in this process, and the daemon, killed.
#![allow(clippy::unwrap_used)]

mod common;

#[path = "sdn/killed.rs"]
mod killed;
#[path = "sdn/requests.rs"]
mod requests;
#[path = "sdn/roles.rs"]
mod roles;
#[path = "sdn/stand.rs"]
mod stand;
#[path = "sdn/watch.rs"]
mod watch;
