//! Who may do what.

use hyper::Method;

use super::routes::VERSION;
use crate::cert::Role;
use crate::serve::HEALTH;

/// Operators may do everything. A host may only look whether another one is there and what it is.
pub(super) fn may(role: Role, method: &Method, route: &str) -> bool {
    match role {
        Role::Operator => true,
        Role::Host => method.is_safe() && [HEALTH, VERSION].contains(&route),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::METRICS;

    #[test]
    fn a_host_may_do_little() {
        assert!(may(Role::Host, &Method::GET, HEALTH) && may(Role::Host, &Method::GET, VERSION));
        assert!(!may(Role::Host, &Method::POST, HEALTH));
        for route in ["/v1/guests", "/v1/modules", METRICS, "unknown"] {
            assert!(!may(Role::Host, &Method::GET, route), "{route}");
            assert!(may(Role::Operator, &Method::DELETE, route), "{route}");
        }
    }
}
