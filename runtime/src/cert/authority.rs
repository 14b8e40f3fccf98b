//! The private certificate authority.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::ServerName;
use time::OffsetDateTime;

use super::files::{read, write_new};
use super::{CertError, Identity, Role};

/// How far clocks may differ: certificates begin that much earlier.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);
/// Longest time a certificate is good for, years.
pub(super) const VALID_YEARS_MAX: u64 = 100;
/// Longest name, bytes: the limit of a common name (RFC 5280, ub-common-name).
const NAME_BYTES_MAX: usize = 64;
const YEAR_S: u64 = 366 * 86_400;

/// A certificate authority: signs who may speak to hosts.
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate shall say.
#[derive(Clone, Debug)]
pub struct Issue {
    /// Its holder.
    pub name: String,
    /// What the holder may do.
    pub role: Role,
    /// Names and addresses a host is reached by, besides its name.
    pub sans: Vec<String>,
    /// How long it is good for.
    pub valid: Duration,
}

/// A new certificate and its key, PEM.
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key.
    pub key_pem: String,
}

impl Authority {
    /// Makes one: `ca.pem` and `ca.key` in a directory, which is made if need be. Never overwrites.
    pub fn create(dir: &Path, name: &str, valid: Duration) -> Result<Self, CertError> {
        check_name(name)?;
        let mut params = params(name, valid)?;
        // No authorities below this one.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate_pem = params.self_signed(&key)?.pem();
        make_dir(dir)?;
        let (certificate_path, key_path) = paths(dir);
        if certificate_path.exists() {
            return Err(CertError::Exists(certificate_path));
        }
        write_new(&key_path, &key.serialize_pem(), 0o600)?;
        write_new(&certificate_path, &certificate_pem, 0o644)?;
        Ok(Self { certificate_pem, issuer: Issuer::new(params, key) })
    }

    /// Reads the one in a directory.
    pub fn open(dir: &Path) -> Result<Self, CertError> {
        let (certificate_path, key_path) = paths(dir);
        let no_authority = || CertError::NoAuthority(certificate_path.clone());
        let certificate_pem = text(&certificate_path)?;
        let key = KeyPair::from_pem(&text(&key_path)?)?;
        let certificates = super::files::certificates(&certificate_path)?;
        let [certificate] = certificates.as_slice() else { return Err(no_authority()) };
        if !Identity::from_der(certificate)?.authority || !belongs(certificate, &key) {
            return Err(no_authority());
        }
        let issuer = Issuer::from_ca_cert_der(certificate, key)?;
        Ok(Self { certificate_pem, issuer })
    }

    /// Its certificate: what its hosts and operators trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Signs a new certificate.
    pub fn issue(&self, issue: &Issue) -> Result<Issued, CertError> {
        check_name(&issue.name)?;
        let mut params = params(&issue.name, issue.valid)?;
        params.distinguished_name.push(DnType::OrganizationalUnitName, issue.role.as_str());
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if issue.role == Role::Host {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            params.subject_alt_names = sans(issue)?;
        } else if !issue.sans.is_empty() {
            return Err(CertError::OperatorSan);
        }
        let key = KeyPair::generate()?;
        let certificate_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate_pem, key_pem: key.serialize_pem() })
    }
}

impl Issued {
    /// Writes `NAME.pem` and `NAME.key`; never overwrites.
    pub fn write(&self, dir: &Path, name: &str) -> Result<(PathBuf, PathBuf), CertError> {
        make_dir(dir)?;
        let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        if certificate.exists() {
            return Err(CertError::Exists(certificate));
        }
        write_new(&key, &self.key_pem, 0o600)?;
        write_new(&certificate, &self.certificate_pem, 0o644)?;
        Ok((certificate, key))
    }

    /// Writes what its holder needs, ready as a `--tls-dir`: `ca.pem`, `ROLE.pem` and `ROLE.key`. A `ca.pem` of the
    /// same authority may be there already.
    pub fn write_tls_dir(
        &self,
        dir: &Path,
        authority: &Authority,
        role: Role,
    ) -> Result<(PathBuf, PathBuf), CertError> {
        make_dir(dir)?;
        let ca = dir.join("ca.pem");
        if !ca.exists() {
            write_new(&ca, authority.certificate_pem(), 0o644)?;
        } else if read(&ca)? != authority.certificate_pem().as_bytes() {
            return Err(CertError::Exists(ca));
        }
        self.write(dir, role.as_str())
    }
}

fn paths(dir: &Path) -> (PathBuf, PathBuf) {
    (dir.join("ca.pem"), dir.join("ca.key"))
}

fn text(path: &Path) -> Result<String, CertError> {
    Ok(String::from_utf8_lossy(&read(path)?).into_owned())
}

fn make_dir(dir: &Path) -> Result<(), CertError> {
    std::fs::create_dir_all(dir).map_err(|source| CertError::File { path: dir.to_owned(), source })
}

fn params(name: &str, valid: Duration) -> Result<CertificateParams, CertError> {
    if valid.as_secs() == 0 || valid.as_secs() > VALID_YEARS_MAX * YEAR_S {
        return Err(CertError::Valid);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "roam");
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + valid;
    Ok(params)
}

fn check_name(name: &str) -> Result<(), CertError> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    let fits = name.len() <= NAME_BYTES_MAX && name.bytes().all(inner);
    if fits && name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        Ok(())
    } else {
        Err(CertError::Name(name.chars().take(80).collect()))
    }
}

fn sans(issue: &Issue) -> Result<Vec<SanType>, CertError> {
    let mut sans: Vec<&str> = issue.sans.iter().map(String::as_str).collect();
    if !sans.contains(&issue.name.as_str()) && !issue.name.contains('@') {
        sans.insert(0, &issue.name);
    }
    let san = |text: &str| {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(SanType::IpAddress(address));
        }
        let refused = || CertError::San(text.chars().take(80).collect());
        // What no client could ask for is refused here rather than found out there.
        ServerName::try_from(text).map_err(|_| refused())?;
        Ok(SanType::DnsName(text.try_into().map_err(|_| refused())?))
    };
    sans.into_iter().map(san).collect()
}

/// Whether the key is the certificate's.
fn belongs(certificate: &[u8], key: &KeyPair) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, certificate)| certificate.public_key().subject_public_key.data == key.public_key_raw())
}
