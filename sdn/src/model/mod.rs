//! The words: hosts, addresses, who has which, and since which generation. Plain data, and the wire as well.

mod mac;
mod name;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use mac::Mac;
pub use name::{Name, NameError};

/// How often an address has changed hands. Starts at 1; a higher one fences all lower ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How often the table has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Which memory of a controller decided. Another one after each start and after each change that could not be kept: then
/// moves that were answered before they were on disk may be forgotten. At random; of two, neither is the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// What frames are addressed to. The MAC is what it is known by: no two addresses share one, nor an IP address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Ethernet address.
    #[schema(value_type = String, example = "02:00:00:00:00:0a")]
    pub mac: Mac,
    /// IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub ip: Option<Ipv4Addr>,
    /// IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv6)]
    pub ip6: Option<Ipv6Addr>,
    /// What people call it: the guest's name. Several may be called alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub name: Option<Name>,
}

impl Address {
    /// Its IP addresses.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ip.map(IpAddr::from).into_iter().chain(self.ip6.map(IpAddr::from))
    }
}

/// Who owns an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// The owner.
    #[schema(value_type = String)]
    pub host: Name,
    /// Since which generation.
    pub generation: Generation,
    /// The owner before, while frames still go to it and it passes them on (a trombone).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub via: Option<Name>,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// The table's revision that it came with. A host that has applied it forwards accordingly.
    pub revision: Revision,
}

/// An address and its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// What frames are addressed to.
    pub address: Address,
    /// Who owns it.
    pub placement: Placement,
}

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Runs guests.
    Host,
    /// Joins networks whose addresses nobody claims: frames to unknown addresses go there.
    Gateway,
}

/// Whether a node is heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It is.
    Live,
    /// It has been silent for too long. What it owns stays its own until somebody moves it.
    Lost,
}

/// A node of the overlay: one end of its tunnels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// What it is called.
    #[schema(value_type = String)]
    pub name: Name,
    /// What it is for.
    pub kind: Kind,
    /// The address of its end of the tunnels (VTEP, RFC 7348).
    #[schema(value_type = String, example = "172.30.0.1")]
    pub vtep: IpAddr,
    /// Where it takes migrations; `None` if it takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "172.30.0.1:7445")]
    pub migrate: Option<SocketAddr>,
    /// Whether it is heard of.
    pub presence: Presence,
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Stream.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(format!("`{}` is neither tcp nor udp", text.chars().take(80).collect::<String>())),
        }
    }
}

/// A door for clients outside the overlay: what comes to `listen` at the gateway goes to `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Front {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// A public address of the gateway.
    #[schema(value_type = String, example = "192.0.2.1:80")]
    pub listen: SocketAddr,
    /// Address and port in the overlay, of the same family.
    #[schema(value_type = String, example = "10.90.1.2:80")]
    pub to: SocketAddr,
}

impl Front {
    /// What it is known by: no two share one.
    pub fn key(&self) -> FrontKey {
        FrontKey { protocol: self.protocol, listen: self.listen }
    }
}

/// What a front is known by: `tcp/192.0.2.1:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FrontKey {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where clients come to.
    pub listen: SocketAddr,
}

impl fmt::Display for FrontKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.listen)
    }
}

impl FromStr for FrontKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(protocol, listen)| {
            Some(Self { protocol: protocol.parse().ok()?, listen: listen.parse().ok()? })
        });
        parsed.ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            format!("`{shown}` is no front: write protocol, address and port, for example tcp/192.0.2.1:80")
        })
    }
}

impl TryFrom<String> for FrontKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<FrontKey> for String {
    fn from(key: FrontKey) -> Self {
        key.to_string()
    }
}

/// One row of the table, changed or gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A node is new or changed.
    Host(Host),
    /// A node has left.
    #[schema(value_type = String)]
    NoHost(Name),
    /// An address is new or has another owner.
    Route(Route),
    /// An address is nobody's any more.
    #[schema(value_type = String)]
    NoRoute(Mac),
    /// A front is new or leads elsewhere.
    Front(Front),
    /// A front is closed.
    #[schema(value_type = String)]
    NoFront(FrontKey),
    /// No address that is claimed anew begins at or below this generation.
    Floor(Generation),
}

/// What one event changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Update {
    /// The table's revision with it.
    pub revision: Revision,
    /// The rows.
    pub changes: Vec<Change>,
}
