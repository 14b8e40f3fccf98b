//! What a guest is asked to be, and what it is.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use roam_abi::limits;
use roam_sdn::model::Generation;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{CidrText, GuestName, MacText, MigrationBrief};
use crate::engine::ModuleHash;

/// A guest to be deployed. What is left out is allocated by the host or has the default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "name": "kv",
    "module": "f53c2d2a1973d83db42f1c9f024de9122cd816ddba2d11eddef5c6aff06dbf0a",
    "ip": "10.90.0.10/16",
    "env": {"LEVEL": "debug"},
    "args": ["--memory", "64m"],
    "restart": "on-failure"
}))]
pub struct GuestSpec {
    /// What it is called on its host: a DNS label.
    #[schema(value_type = String, pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", min_length = 1, max_length = 63)]
    pub name: GuestName,
    /// blake3 of the module, 64 hex digits. The host must have it (`PUT /v1/modules/{digest}`).
    #[schema(value_type = String, pattern = "^[0-9a-fA-F]{64}$")]
    pub module: ModuleHash,
    /// IPv4 address and prefix; allocated from the host's pool when neither `ip` nor `ip6` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^[0-9.]+/[0-9]+$", example = "10.90.0.10/24")]
    pub ip: Option<CidrText<Ipv4Addr>>,
    /// IPv6 address and prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^[0-9a-fA-F:.]+/[0-9]+$", example = "fd90::10/64")]
    pub ip6: Option<CidrText<Ipv6Addr>>,
    /// Ethernet address; derived from the addresses when left out, locally administered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        value_type = Option<String>,
        pattern = "^[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}$",
        example = "02:00:00:00:00:0a"
    )]
    pub mac: Option<MacText>,
    /// IPv4 gateway; the host's own default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub gateway: Option<Ipv4Addr>,
    /// IPv6 gateway; the host's own default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv6)]
    pub gateway6: Option<Ipv6Addr>,
    /// IP MTU, bytes; what the host's network carries when left out, 1500 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 576, maximum = 9216)]
    pub mtu: Option<u16>,
    /// Limit of the guest's linear memories, bytes.
    #[serde(default = "default_memory")]
    #[schema(default = default_memory, minimum = 65536, maximum = 4294967296_u64)]
    pub memory_bytes_max: u64,
    /// Limit of all sockets' buffers together, bytes.
    #[serde(default = "default_memory")]
    #[schema(default = default_memory, minimum = 1048576, maximum = 2147483648_u64)]
    pub socket_memory_bytes_max: u64,
    /// Limit of its CPU time in cores, where the host has cgroups: 0.5 is half a core. None by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.01, maximum = 1024.0)]
    pub cpus_max: Option<f64>,
    /// Environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Arguments. The program's name goes before them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// What to do when it ends by itself.
    #[serde(default)]
    #[schema(default = RestartPolicy::default)]
    pub restart: RestartPolicy,
    /// CPU time one poll may take before the guest is stopped, microseconds.
    #[serde(default = "default_poll_budget")]
    #[schema(default = default_poll_budget, minimum = 1000, maximum = 60000000)]
    pub poll_budget_us: u64,
    /// How long to look for frames before sleeping, microseconds.
    #[serde(default)]
    #[schema(default = 0, maximum = 1000000)]
    pub busy_poll_us: u64,
}

/// A guest's IP MTU where its network carries that much, bytes.
pub const MTU_BYTES_DEFAULT: u16 = 1500;

fn default_mtu() -> u16 {
    MTU_BYTES_DEFAULT
}

fn default_memory() -> u64 {
    256 << 20
}

fn default_poll_budget() -> u64 {
    1_000_000
}

/// What to do when a guest ends by itself (an operator's `stop` is final in any case).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Leave it ended.
    No,
    /// Start it again unless it exited with code 0. A machine that went down counts as a failure.
    #[default]
    OnFailure,
    /// Start it again.
    Always,
}

/// Why a specification is not possible, whatever the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A number out of its range.
    #[error("{field} is {value}; it must be from {min} to {max}")]
    Range {
        /// Which.
        field: &'static str,
        /// What was asked for.
        value: u64,
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// A text that is no address.
    #[error("{0}")]
    Address(String),
    /// CPU share that is no positive number.
    #[error("cpus_max must be from 0.01 to 1024")]
    Cpus,
    /// Arguments or environment too many, too long, or with a NUL.
    #[error(
        "{field}: at most {} entries and {} bytes, without NUL; names in env without `=` and not empty",
        limits::ARGS_MAX,
        limits::ARGS_BYTES_MAX
    )]
    Arguments {
        /// args or env.
        field: &'static str,
    },
}

/// Least and most of a guest's memory limit, bytes.
const MEMORY_BYTES: (u64, u64) = (64 * 1024, 4 << 30);
/// Least and most of a poll's budget, microseconds.
const POLL_BUDGET_US: (u64, u64) = (1_000, 60_000_000);
/// Most of busy polling, microseconds.
const BUSY_POLL_US_MAX: u64 = 1_000_000;

impl GuestSpec {
    /// A guest of that name and module, the rest as if left out.
    pub fn new(name: GuestName, module: ModuleHash) -> Self {
        Self {
            name,
            module,
            ip: None,
            ip6: None,
            mac: None,
            gateway: None,
            gateway6: None,
            mtu: None,
            memory_bytes_max: default_memory(),
            socket_memory_bytes_max: default_memory(),
            cpus_max: None,
            env: BTreeMap::new(),
            args: Vec::new(),
            restart: RestartPolicy::default(),
            poll_budget_us: default_poll_budget(),
            busy_poll_us: 0,
        }
    }

    /// Checks what can be checked without a host. Addresses are checked by the netstack's configuration.
    pub fn check(&self) -> Result<(), SpecError> {
        use roam_netstack as net;
        let range = |field, value: u64, (min, max): (u64, u64)| {
            if (min..=max).contains(&value) { Ok(()) } else { Err(SpecError::Range { field, value, min, max }) }
        };
        if let Some(mtu) = self.mtu {
            range("mtu", mtu.into(), (net::MTU_BYTES_MIN.into(), net::MTU_BYTES_MAX.into()))?;
        }
        range("memory_bytes_max", self.memory_bytes_max, MEMORY_BYTES)?;
        let socket_memory = (net::BUFFER_BYTES_MAX_MIN.into(), net::BUFFER_BYTES_MAX_MAX.into());
        range("socket_memory_bytes_max", self.socket_memory_bytes_max, socket_memory)?;
        range("poll_budget_us", self.poll_budget_us, POLL_BUDGET_US)?;
        range("busy_poll_us", self.busy_poll_us, (0, BUSY_POLL_US_MAX))?;
        if self.cpus_max.is_some_and(|cpus| !(0.01..=1024.0).contains(&cpus)) {
            return Err(SpecError::Cpus);
        }
        // The program's name goes before the arguments.
        check_strings("args", self.args.iter().map(|arg| arg.len()), self.name.as_str().len() + 1)?;
        check_strings("env", self.env.iter().map(|(key, value)| key.len() + 1 + value.len()), 0)?;
        let nul = |text: &String| text.contains('\0');
        if self.args.iter().any(nul) {
            return Err(SpecError::Arguments { field: "args" });
        }
        if self.env.iter().any(|(key, value)| key.is_empty() || key.contains('=') || nul(key) || nul(value)) {
            return Err(SpecError::Arguments { field: "env" });
        }
        Ok(())
    }
}

fn check_strings(field: &'static str, lengths: impl Iterator<Item = usize>, already: usize) -> Result<(), SpecError> {
    let (mut count, mut bytes) = (usize::from(already > 0), already);
    for length in lengths {
        count += 1;
        bytes += length + 1;
    }
    if count > limits::ARGS_MAX || bytes > limits::ARGS_BYTES_MAX {
        return Err(SpecError::Arguments { field });
    }
    Ok(())
}

/// What a guest is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GuestState {
    /// Its worker is being started.
    Starting,
    /// It serves.
    Running,
    /// It is being stopped or deleted.
    Stopping,
    /// An operator stopped it.
    Stopped,
    /// It ended by itself and stays so, by its policy.
    Ended,
    /// It ended by itself and is started again after a pause.
    Waiting,
    /// It kept ending soon after each start, or cannot be started; it stays so until an operator starts it.
    Parked,
    /// Its address is another host's. It was ended at once, and stays so until an operator starts it and the controller
    /// grants its address anew.
    Fenced,
    /// It comes from another host, or from an image: its worker is there and waits for the right to poll.
    Arriving,
    /// It was being moved to another host, and is stopped until it is settled which of the two has it.
    InDoubt,
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct End {
    /// What happened.
    pub kind: EndKind,
    /// The guest's exit code, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// One sentence.
    pub reason: String,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
}

/// Ways for a guest to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EndKind {
    /// An operator asked.
    Asked,
    /// It exited.
    Exited,
    /// It panicked, or did what WebAssembly forbids.
    Trapped,
    /// A poll took longer than its budget.
    Overran,
    /// Its worker was killed from outside, by the kernel's memory limit, or by the jail.
    Killed,
    /// It could not be started, or its device failed.
    Failed,
    /// The machine went down under it.
    MachineDown,
    /// Its address became another host's.
    Fenced,
    /// An operator has an image of it, and had it end with that.
    Checkpointed,
}

/// A guest's place in the network, as allocated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkView {
    /// IPv4 address and prefix.
    #[schema(value_type = Option<String>)]
    pub ip: Option<CidrText<Ipv4Addr>>,
    /// IPv6 address and prefix.
    #[schema(value_type = Option<String>)]
    pub ip6: Option<CidrText<Ipv6Addr>>,
    /// Ethernet address.
    #[schema(value_type = String)]
    pub mac: MacText,
    /// IPv4 gateway.
    #[schema(value_type = Option<String>)]
    pub gateway: Option<Ipv4Addr>,
    /// IPv6 gateway.
    #[schema(value_type = Option<String>)]
    pub gateway6: Option<Ipv6Addr>,
    /// Its TAP device on the host; there while it runs.
    pub tap: String,
    /// IP MTU, bytes.
    #[serde(default = "default_mtu")]
    #[schema(default = default_mtu)]
    pub mtu: u16,
}

/// A guest as its host sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GuestView {
    /// 16 hex digits, new with each deployment: tells a guest from a later one of the same name.
    pub id: String,
    /// What was asked for.
    pub spec: GuestSpec,
    /// Where it is in the network.
    pub network: NetworkView,
    /// What it is doing.
    pub state: GuestState,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// Its worker's process id on the host, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Whether its worker answers the daemon; `false` for one that hangs.
    pub responsive: bool,
    /// Times it was started again without an operator's doing.
    pub restarts: u64,
    /// How it ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<End>,
    /// When it was deployed, milliseconds since 1970.
    pub created_ms: u64,
    /// The generation it has its address since, where a controller says whose addresses are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// The migration it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationBrief>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use utoipa::PartialSchema;

    /// The description has numbers where the check has names.
    #[test]
    fn the_description_has_the_limits_that_are_checked() {
        let schema = serde_json::to_value(GuestSpec::schema()).unwrap();
        let property = |name: &str| schema["properties"][name].clone();
        for field in ["mtu", "memory_bytes_max", "socket_memory_bytes_max", "poll_budget_us", "busy_poll_us"] {
            let (min, max) =
                (property(field)["minimum"].as_u64().unwrap(), property(field)["maximum"].as_u64().unwrap());
            let outside = [min.checked_sub(1), max.checked_add(1)].into_iter().flatten().map(|value| (value, false));
            for (value, fits) in [(min, true), (max, true)].into_iter().chain(outside) {
                let mut spec = serde_json::json!({"name": "a", "module": "0".repeat(64)});
                spec[field] = value.into();
                let spec: GuestSpec = serde_json::from_value(spec).unwrap();
                assert_eq!(spec.check().is_ok(), fits, "{field} = {value}");
            }
        }
        let left_out = serde_json::to_value(GuestSpec::new("a".parse().unwrap(), ModuleHash([0; 32]))).unwrap();
        for (name, value) in left_out.as_object().unwrap() {
            let default = &property(name)["default"];
            assert!(default == value || ["name", "module"].contains(&name.as_str()), "{name}: {default} {value}");
        }
    }
}
