//! What a certificate says about its holder.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::Serialize;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use super::CertError;
use super::files::certificates;

/// What the holder of a certificate may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything: deploy, stop, delete.
    Operator,
    /// What hosts need of each other.
    Host,
}

impl Role {
    /// As it stands in a certificate.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Host => "host",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a certificate says. Whether it is true is the verifier's business.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Its holder.
    pub name: String,
    /// What the holder may do; none in an authority's own certificate, or a foreign one.
    pub role: Option<Role>,
    /// Whether it can sign others.
    pub authority: bool,
    /// Names and addresses it is good for as a server.
    pub sans: Vec<String>,
    /// Not good before, seconds since 1970.
    pub not_before_s: i64,
    /// Not good after, seconds since 1970.
    pub not_after_s: i64,
}

impl Identity {
    /// Reads a certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, CertError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| CertError::Der(error.to_string()))?;
        if !rest.is_empty() {
            return Err(CertError::Der(format!("{} bytes follow it", rest.len())));
        }
        let subject = certificate.subject();
        let sans = match certificate.subject_alternative_name() {
            Ok(Some(sans)) => sans.value.general_names.iter().map(text).collect(),
            Ok(None) => Vec::new(),
            Err(error) => return Err(CertError::Der(error.to_string())),
        };
        Ok(Self {
            name: single(subject, X509Name::iter_common_name).unwrap_or_default(),
            role: single(subject, X509Name::iter_organizational_unit).and_then(|unit| role(&unit)),
            authority: certificate.is_ca(),
            sans,
            not_before_s: certificate.validity().not_before.timestamp(),
            not_after_s: certificate.validity().not_after.timestamp(),
        })
    }

    /// Reads the first certificate of a PEM file.
    pub fn of_file(path: &Path) -> Result<Self, CertError> {
        Self::from_der(&certificates(path)?[0])
    }

    /// Whether it is within its time.
    pub fn is_valid_at(&self, now: OffsetDateTime) -> bool {
        (self.not_before_s..=self.not_after_s).contains(&now.unix_timestamp())
    }
}

/// The one value of an attribute; of several, none counts: which is meant would be a guess.
fn single<'a, I>(subject: &'a X509Name<'a>, values: impl Fn(&'a X509Name<'a>) -> I) -> Option<String>
where
    I: Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>,
{
    let mut values = values(subject);
    let value = values.next()?.as_str().ok()?;
    values.next().is_none().then(|| value.to_owned())
}

fn role(unit: &str) -> Option<Role> {
    [Role::Operator, Role::Host].into_iter().find(|role| role.as_str() == unit)
}

fn text(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(|bytes| Ipv4Addr::from(bytes).to_string());
            let sixteen = || <[u8; 16]>::try_from(*bytes).map(|bytes| Ipv6Addr::from(bytes).to_string());
            four.or_else(|_| sixteen()).unwrap_or_else(|_| format!("{bytes:02x?}"))
        }
        other => other.to_string(),
    }
}
