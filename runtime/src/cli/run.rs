//! `roam run`: one guest in the foreground.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use roam_abi::LogLevel;
use roam_netstack::Config;

use super::units;
use crate::ambient::random;
use crate::api::{CidrText, MacText, derived_mac};
use crate::engine::Engine;
use crate::guest::{Guest, GuestConfig, LogLine, StartError, Stopped};
use crate::net::{Edge, EdgeError, EdgeOptions, Ended, Overrun, Tap, TapOptions, Watchdog};

/// Run one guest in the foreground.
///
/// Makes the TAP device (or takes the existing one of that name), starts the module behind it with its own TCP/IP
/// stack, and serves until SIGINT or SIGTERM. The guest's log goes to standard error.
///
/// Exit codes: 0 stopped by a signal or exited with 0; the guest's own code if it exited with another;
/// 1 it could not be started; 101 it panicked or trapped; 124 it overran its poll budget; 2 usage.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The module: a core WebAssembly file for wasm32-unknown-unknown or wasm32-wasip1.
    module: PathBuf,
    /// The guest's name in messages [default: the module's file name].
    #[arg(long)]
    name: Option<String>,
    /// TAP device, at most 15 bytes.
    #[arg(long, value_name = "DEVICE")]
    tap: String,
    /// IPv4 address with prefix, for example 10.90.0.10/24.
    #[arg(long, value_name = "ADDRESS/PREFIX", required_unless_present = "ip6")]
    ip: Option<CidrText<Ipv4Addr>>,
    /// IPv6 address with prefix, for example fd90::10/64.
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    ip6: Option<CidrText<Ipv6Addr>>,
    /// MAC address [default: locally administered, from the guest's addresses].
    #[arg(long)]
    mac: Option<MacText>,
    /// IPv4 gateway.
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<Ipv4Addr>,
    /// IPv6 gateway.
    #[arg(long, value_name = "ADDRESS")]
    gateway6: Option<Ipv6Addr>,
    /// IP MTU in bytes.
    #[arg(long, default_value_t = 1500)]
    mtu: u16,
    /// An environment variable for the guest; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Limit of the guest's memory.
    #[arg(long, default_value = "256MiB", value_parser = units::bytes, value_name = "SIZE")]
    memory: usize,
    /// Limit of all sockets' buffers together; memory is only taken by what is in them.
    #[arg(long, default_value = "256MiB", value_parser = units::bytes, value_name = "SIZE")]
    socket_memory: usize,
    /// CPU time one poll may take before the guest is stopped.
    #[arg(long, default_value = "1s", value_parser = units::duration, value_name = "TIME")]
    poll_budget: Duration,
    /// Look for frames this long before sleeping: less latency for a busy core.
    #[arg(long, default_value = "0us", value_parser = units::duration, value_name = "TIME")]
    busy_poll: Duration,
    /// Seed of the guest's random generator, 64 hex digits [default: from the system].
    #[arg(long, value_name = "HEX")]
    seed: Option<String>,
    /// Where compiled modules are kept [default: $XDG_CACHE_HOME/roam or ~/.cache/roam].
    #[arg(long, env = "ROAM_CACHE_DIR", value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Arguments for the guest, after `--`.
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

/// The guest panicked or trapped: what Rust programs exit with after a panic.
const EXIT_TRAPPED: u8 = 101;
/// The guest overran its poll budget: what `timeout` exits with.
const EXIT_OVERRUN: u8 = 124;
const POLL_BUDGET_MIN: Duration = Duration::from_millis(1);

pub(super) fn run(arguments: Arguments) -> Result<ExitCode> {
    let name = arguments.name.clone().unwrap_or_else(|| file_name(&arguments.module));
    let bytes = read_module(&arguments.module)?;
    let network = network(&arguments)?;
    if arguments.poll_budget < POLL_BUDGET_MIN {
        bail!("--poll-budget must be at least 1ms");
    }
    // Blocked before any thread starts, so that all threads leave these signals to the descriptor.
    let stop = stop_signals().context("signals cannot be received")?;
    let engine = Engine::new(Some(arguments.cache_dir.clone().map_or_else(default_cache_dir, Ok)?))?;
    let module = engine.load(&bytes).with_context(|| format!("cannot run {}", arguments.module.display()))?;
    let netstack = engine.load_netstack()?;
    let tap = Tap::open(&TapOptions { name: arguments.tap.clone(), mtu: arguments.mtu })?;
    let watchdog = watchdog(&name, arguments.poll_budget)?;
    let config = guest_config(&arguments, &name, network)?;
    // A start function or `_initialize` that does not return is an overrun like any other.
    let started = watchdog.guard(|| {
        let mut guest = Guest::start(&engine, &module, &netstack, &config)?;
        guest.announce()?;
        Ok::<_, StartError>(guest)
    });
    let mut guest = started.with_context(|| format!("cannot start guest {name}"))?;
    tracing::info!(
        guest = name, tap = arguments.tap, mac = %MacText(config.network.mac),
        ip = arguments.ip.map(tracing::field::display), ip6 = arguments.ip6.map(tracing::field::display),
        module = %module.hash(), cached = module.from_cache(), "ready"
    );
    let mut edge = Edge::new(tap, EdgeOptions { busy_poll: arguments.busy_poll });
    let ended = edge.run(&mut guest, &watchdog, stop.as_fd().into(), |line| print_log(&name, &line));
    guest.take_log().iter().for_each(|line| print_log(&name, line));
    report_counters(&name, &edge, &mut guest);
    exit_code(&name, ended)
}

fn exit_code(name: &str, ended: Result<Ended, EdgeError>) -> Result<ExitCode> {
    match ended {
        Ok(Ended::Asked) => {
            tracing::info!(guest = name, "stopped");
            Ok(ExitCode::SUCCESS)
        }
        Err(EdgeError::Stopped(Stopped::Exited { code })) => {
            tracing::info!(guest = name, code, "the guest exited");
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
        Err(EdgeError::Stopped(stopped)) => {
            eprintln!("roam: guest {name}: {:#}", anyhow::Error::from(stopped));
            Ok(ExitCode::from(EXIT_TRAPPED))
        }
        Err(error) => Err(anyhow::Error::from(error).context(format!("guest {name}"))),
    }
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if size > crate::engine::MODULE_BYTES_MAX as u64 {
        bail!("{} is {size} bytes; a module is at most {}", path.display(), crate::engine::MODULE_BYTES_MAX);
    }
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn file_name(path: &Path) -> String {
    path.file_stem().map_or_else(|| "guest".into(), |stem| stem.to_string_lossy().into_owned())
}

fn watchdog(name: &str, budget: Duration) -> Result<Watchdog> {
    let name = name.to_string();
    let on_overrun = move |Overrun { budget }| {
        eprintln!("roam: guest {name}: a poll took more than its budget of {budget:?} CPU time; the guest was stopped");
        // The guest's thread cannot be stopped from outside, and this process holds nothing but the guest.
        std::process::exit(i32::from(EXIT_OVERRUN));
    };
    Watchdog::new(budget, on_overrun).context("the watchdog thread cannot be started")
}

fn stop_signals() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

fn network(arguments: &Arguments) -> Result<Config> {
    let mac = arguments.mac.unwrap_or_else(|| derived_mac(arguments.ip, arguments.ip6));
    let mut config = Config::new(mac.0);
    config.ipv4 = arguments.ip.map(|CidrText(cidr)| cidr);
    config.ipv6 = arguments.ip6.map(|CidrText(cidr)| cidr);
    config.gateway4 = arguments.gateway;
    config.gateway6 = arguments.gateway6;
    config.mtu = arguments.mtu;
    config.segmentation = true;
    config.buffer_bytes_max = u32::try_from(arguments.socket_memory).unwrap_or(u32::MAX);
    config.check()?;
    Ok(config)
}

fn guest_config(arguments: &Arguments, name: &str, network: Config) -> Result<GuestConfig> {
    if let Some(entry) = arguments.env.iter().find(|entry| !entry.contains('=')) {
        bail!("--env {entry}: write KEY=VALUE");
    }
    let seed = match &arguments.seed {
        Some(hex) => *blake3::Hash::from_hex(hex).context("--seed: write 64 hex digits")?.as_bytes(),
        None => random().context("cannot read /dev/urandom")?,
    };
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).context("the system clock is before 1970")?;
    Ok(GuestConfig {
        args: std::iter::once(name.to_string()).chain(arguments.args.iter().cloned()).collect(),
        env: arguments.env.clone(),
        network,
        memory_bytes_max: arguments.memory,
        seed,
        epoch_ns: i64::try_from(epoch.as_nanos()).context("the system clock is beyond 2262")?,
    })
}

fn default_cache_dir() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    Ok(base.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set; use --cache-dir")?.join("roam"))
}

fn print_log(name: &str, line: &LogLine) {
    let LogLine { text, .. } = line;
    match LogLevel::from_raw(line.level) {
        Some(LogLevel::Error) => tracing::error!(guest = name, "{text}"),
        Some(LogLevel::Warn) => tracing::warn!(guest = name, "{text}"),
        Some(LogLevel::Debug) => tracing::debug!(guest = name, "{text}"),
        Some(LogLevel::Info) | None => tracing::info!(guest = name, "{text}"),
    }
}

fn report_counters(name: &str, edge: &Edge, guest: &mut Guest) {
    let edge = edge.counters();
    tracing::info!(
        guest = name,
        polls = edge.polls,
        rx_frames = edge.rx_frames,
        rx_bytes = edge.rx_bytes,
        rx_checksum_errors = edge.rx_checksum_errors,
        rx_ring_dropped = guest.rx().dropped(),
        tx_frames = edge.tx_frames,
        tx_bytes = edge.tx_bytes,
        tx_dropped = edge.tx_dropped,
        "frames"
    );
    let counters: Vec<_> = guest
        .counters()
        .iter()
        .filter(|(_, value)| *value > 0)
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    tracing::info!(guest = name, "netstack {}", counters.join(" "));
}
