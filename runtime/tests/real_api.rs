//! The daemon's HTTP side against peers of every kind: a server in this process, on a socket and on loopback.
#![allow(clippy::unwrap_used)]

mod common;

#[path = "api/clients.rs"]
mod clients;
#[path = "api/guests.rs"]
mod guests;
#[path = "api/http.rs"]
mod http;
#[path = "api/limits.rs"]
mod limits;
#[path = "api/migrations.rs"]
mod migrations;
#[path = "api/socket.rs"]
mod socket;
#[path = "api/stand.rs"]
mod stand;
#[path = "api/strangers.rs"]
mod strangers;
