//! The data planes for real: network namespaces, tunnels, frames. Each plane passes the same tests (`conformance`); what
//! differs is how its gateway is made.
#![allow(clippy::unwrap_used)]

mod conformance;
mod fronts;
mod kernel;
mod namespace;
mod ovs;
mod rig;
mod switch;
