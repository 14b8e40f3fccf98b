//! Certificates from their making to what is read in them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proptest::prelude::{any, proptest};
use rcgen::{CertificateParams, DnType, KeyPair};
use time::OffsetDateTime;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("roam-cert-{}-{count}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn issue(name: &str, role: Role, sans: &[&str]) -> Issue {
    Issue { name: name.to_owned(), role, sans: sans.iter().map(|&san| san.to_owned()).collect(), valid: DAY }
}

#[test]
fn what_is_issued_says_what_was_asked_for() {
    let scratch = Scratch::new();
    Authority::create(&scratch.0, "test", DAY).unwrap();
    let authority = Authority::open(&scratch.0).unwrap();
    let host = authority.issue(&issue("host-a", Role::Host, &["10.0.0.1", "fd90::1", "a.example"])).unwrap();
    let (certificate, key) = host.write(&scratch.0, "host-a").unwrap();
    let identity = Identity::of_file(&certificate).unwrap();
    assert_eq!((identity.name.as_str(), identity.role, identity.authority), ("host-a", Some(Role::Host), false));
    assert_eq!(identity.sans, ["host-a", "10.0.0.1", "fd90::1", "a.example"]);
    let now = OffsetDateTime::now_utc();
    assert!(identity.is_valid_at(now) && identity.is_valid_at(now - Duration::from_secs(600)));
    assert!(!identity.is_valid_at(now + 2 * DAY) && !identity.is_valid_at(now - DAY));
    assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    let operator = authority.issue(&issue("alice@example.org", Role::Operator, &[])).unwrap();
    let (certificate, _) = operator.write_tls_dir(&scratch.0.join("op"), &authority, Role::Operator).unwrap();
    let identity = Identity::of_file(&certificate).unwrap();
    assert_eq!((identity.name.as_str(), identity.role), ("alice@example.org", Some(Role::Operator)));
    let root = Identity::of_file(&scratch.0.join("ca.pem")).unwrap();
    assert_eq!((root.role, root.authority), (None, true));
    assert_eq!(fs::metadata(scratch.0.join("ca.key")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn nothing_is_overwritten() {
    let scratch = Scratch::new();
    let authority = Authority::create(&scratch.0, "test", DAY).unwrap();
    let before = fs::read(scratch.0.join("ca.key")).unwrap();
    assert!(matches!(Authority::create(&scratch.0, "test", DAY), Err(CertError::Exists(_))));
    let issued = authority.issue(&issue("alice", Role::Operator, &[])).unwrap();
    issued.write(&scratch.0, "alice").unwrap();
    assert!(matches!(issued.write(&scratch.0, "alice"), Err(CertError::Exists(_))));
    // An operator whose name is the authority's file's gets nothing of it either.
    assert!(matches!(issued.write(&scratch.0, "ca"), Err(CertError::Exists(_))));
    assert_eq!(fs::read(scratch.0.join("ca.key")).unwrap(), before);
    // A directory for another authority's holder.
    let (other, target) = (Scratch::new(), scratch.0.join("target"));
    let other = Authority::create(&other.0, "other", DAY).unwrap();
    issued.write_tls_dir(&target, &authority, Role::Operator).unwrap();
    let foreign = other.issue(&issue("host-a", Role::Host, &[])).unwrap();
    assert!(matches!(foreign.write_tls_dir(&target, &other, Role::Host), Err(CertError::Exists(_))));
}

#[test]
fn what_cannot_be_is_refused() {
    let scratch = Scratch::new();
    let authority = Authority::create(&scratch.0, "test", DAY).unwrap();
    for name in ["", "-a", ".a", "../a", "a/b", "a b", "a\n", "ä", &"x".repeat(65)] {
        let refused = authority.issue(&issue(name, Role::Operator, &[]));
        assert!(matches!(refused, Err(CertError::Name(_))), "{name}");
    }
    for san in ["", "a b", "http://a", "a:1", "10.0.0.0/8", "ä"] {
        let refused = authority.issue(&issue("host-a", Role::Host, &[san]));
        assert!(matches!(refused, Err(CertError::San(_))), "{san}");
    }
    assert!(matches!(authority.issue(&issue("a", Role::Operator, &["b"])), Err(CertError::OperatorSan)));
    for valid in [Duration::ZERO, Duration::MAX] {
        let refused = authority.issue(&Issue { valid, ..issue("a", Role::Operator, &[]) });
        assert!(matches!(refused, Err(CertError::Valid)));
    }
}

#[test]
fn only_an_authority_with_its_own_key_is_opened() {
    let scratch = Scratch::new();
    assert!(matches!(Authority::open(&scratch.0), Err(CertError::File { .. })));
    let authority = Authority::create(&scratch.0, "test", DAY).unwrap();
    let key = KeyPair::generate().unwrap().serialize_pem();
    fs::write(scratch.0.join("ca.key"), key).unwrap();
    assert!(matches!(Authority::open(&scratch.0), Err(CertError::NoAuthority(_))));
    let issued = authority.issue(&issue("alice", Role::Operator, &[])).unwrap();
    fs::write(scratch.0.join("ca.pem"), &issued.certificate_pem).unwrap();
    fs::write(scratch.0.join("ca.key"), &issued.key_pem).unwrap();
    assert!(matches!(Authority::open(&scratch.0), Err(CertError::NoAuthority(_))));
    fs::write(scratch.0.join("ca.pem"), "no certificate").unwrap();
    assert!(matches!(Authority::open(&scratch.0), Err(CertError::Pem { .. })));
}

#[test]
fn files_that_do_not_fit_are_no_configuration() {
    let scratch = Scratch::new();
    let authority = Authority::create(&scratch.0, "test", DAY).unwrap();
    let dir = scratch.0.join("op");
    let files = TlsFiles::in_dir(&dir, Role::Operator);
    assert!(matches!(client_config(&files), Err(CertError::File { .. })));
    let issued = authority.issue(&issue("alice", Role::Operator, &[])).unwrap();
    issued.write_tls_dir(&dir, &authority, Role::Operator).unwrap();
    assert!(client_config(&files).is_ok() && server_config(&files).is_ok());
    fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(matches!(client_config(&files), Err(CertError::Tls(_))));
    fs::write(&files.key, &issued.certificate_pem).unwrap();
    assert!(matches!(client_config(&files), Err(CertError::Pem { .. })));
}

#[test]
fn a_role_is_one_and_known() {
    let role = |units: &[&str]| {
        let mut params = CertificateParams::default();
        for unit in units {
            params.distinguished_name.push(DnType::OrganizationalUnitName, *unit);
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Identity::from_der(certificate.der()).unwrap().role
    };
    assert_eq!((role(&["host"]), role(&["operator"])), (Some(Role::Host), Some(Role::Operator)));
    for units in [&[][..], &["root"], &["Operator"], &["operator "], &["host operator"]] {
        assert_eq!(role(units), None, "{units:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange_to_be_read(bytes: Vec<u8>, cut in any::<u16>(), flip in any::<u16>()) {
        let _ = Identity::from_der(&bytes);
        let certificate = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap();
        let mut der = certificate.der().to_vec();
        let flip = usize::from(flip) % der.len();
        der[flip] ^= 1 << (cut % 8);
        let _ = Identity::from_der(&der);
        der.truncate(usize::from(cut) % der.len());
        assert!(Identity::from_der(&der).is_err());
    }
}
