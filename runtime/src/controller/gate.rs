//! Who may do what, and in whose name.

use hyper::Method;
use roam_sdn::table::Refused;
use roam_sdn::{Mac, Name};

use super::App;
use crate::api::ErrorCode;
use crate::api::sdn::{Move, Route};
use crate::cert::Role;
use crate::serve::answer::Refusal;
use crate::serve::metrics::Rejected;
use crate::serve::peer::Peer;

/// What hosts change, each in its own name: that is for the handlers to see, which know in whose it is.
const OF_HOSTS: [&str; 6] = [
    "/v1/routes",
    "/v1/routes/{address}",
    "/v1/routes/{address}/move",
    "/v1/routes/{address}/settle",
    "/v1/hosts/{name}",
    "/v1/hosts/{name}/heartbeat",
];

/// Operators may do everything. Hosts may look at everything.
pub(super) fn may(role: Role, method: &Method, route: &str) -> bool {
    match role {
        Role::Operator => true,
        Role::Host => method.is_safe() || OF_HOSTS.contains(&route),
    }
}

impl App {
    /// Whether a peer may act in the name of that host. `what` it wants is for the message.
    pub(super) fn in_name_of(&self, peer: &Peer, host: &Name, what: &str) -> Result<(), Refusal> {
        match peer {
            Peer::Holder { role: Role::Host, name } if name != host.as_str() => Err(self.forbidden(format!(
                "{peer} may not {what} {host}: it needs that host's certificate, or one of role operator"
            ))),
            _ => Ok(()),
        }
    }

    /// Whether a host gives an address that it has to another: what it was given for a guest that it never polled. A generation
    /// is one host's for good; one that is over is nobody's to give.
    pub(super) fn gives(&self, peer: &Peer, mac: Mac, asked: &Move) -> Result<bool, Refusal> {
        let Ok(Route { placement, address }) = self.controller.find(&mac.to_string()) else { return Ok(false) };
        let plain = !asked.drain && !asked.early && asked.incarnation.is_none();
        if !plain || placement.generation < asked.from {
            return Ok(false);
        }
        if placement.generation > asked.from {
            let held = Some(asked.from);
            let (generation, owner, name) = (placement.generation, placement.host, address.name);
            return Err(Refused::Fenced { mac, held, generation, owner, name }.into());
        }
        Ok(self.in_name_of(peer, &placement.host, "move an address of").is_ok())
    }

    /// 403, counted.
    pub(super) fn forbidden(&self, message: String) -> Refusal {
        self.reception.metrics.rejected(Rejected::Role);
        Refusal::new(ErrorCode::Forbidden, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::METRICS;

    #[test]
    fn a_host_looks_and_speaks_for_itself() {
        for route in ["/v1/routes", "/v1/fronts", "/v1/watch", METRICS] {
            assert!(may(Role::Host, &Method::GET, route), "{route}");
        }
        assert!(may(Role::Host, &Method::POST, "/v1/routes/{address}/move"));
        assert!(may(Role::Host, &Method::PUT, "/v1/hosts/{name}"));
        for route in ["/v1/fronts", "unknown", "/v1/status"] {
            assert!(!may(Role::Host, &Method::PUT, route), "{route}");
            assert!(may(Role::Operator, &Method::PUT, route), "{route}");
        }
    }
}
