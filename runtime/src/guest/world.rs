//! What a guest has beside its memory: clock, random generator, arguments, log; and its limits.

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};
use roam_abi::{LogLevel, limits};
use wasmtime::{Memory, ResourceLimiter};

use super::saved::{SavedRandom, SavedWorld};
use super::stack::Layout;
use super::{GuestConfig, NETSTACK_BYTES_MAX};
use crate::engine::TABLE_ELEMENTS_MAX;

/// Log lines kept of one poll; more are counted and dropped, so that a guest cannot fill the host.
pub const LOG_LINES_PER_POLL_MAX: usize = 1024;

/// A line the guest logged.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LogLine {
    /// When, on the guest's clock, nanoseconds.
    pub at_ns: i64,
    /// 1 error, 2 warn, 3 info, 4 debug (see [`LogLevel`]).
    pub level: u32,
    /// At most [`limits::LOG_LINE_BYTES_MAX`] bytes; what was not UTF-8 is replaced.
    pub text: String,
}

/// `exit` as an error that unwinds the guest.
#[derive(Debug, thiserror::Error)]
#[error("exit({0})")]
pub(super) struct Exit(pub(super) i32);

/// The data of a guest's store.
pub(super) struct World {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    /// The guest's exported memory, once it is instantiated.
    pub(super) memory: Option<Memory>,
    /// Whether the guest asked for events in the poll under way.
    pub(super) fetched_events: bool,
    /// Whether the netstack is being called, so that growing memory counts as its own.
    pub(super) in_stack: bool,
    /// Where the netstack keeps what the host looks at.
    pub(super) layout: Layout,
    now_ns: i64,
    epoch_ns: i64,
    random: ChaCha12Rng,
    log: Vec<LogLine>,
    log_lines_dropped: u64,
    memory_bytes: usize,
    memory_bytes_max: usize,
    stack_bytes: usize,
    stack_bytes_max: usize,
}

impl World {
    pub(super) fn new(config: &GuestConfig) -> Self {
        Self {
            args: config.args.clone(),
            env: config.env.clone(),
            memory: None,
            fetched_events: false,
            in_stack: false,
            layout: Layout::default(),
            now_ns: 0,
            epoch_ns: config.epoch_ns,
            random: ChaCha12Rng::from_seed(config.seed),
            log: Vec::new(),
            log_lines_dropped: 0,
            memory_bytes: 0,
            memory_bytes_max: config.memory_bytes_max,
            stack_bytes: 0,
            stack_bytes_max: stack_bytes_max(&config.network),
        }
    }

    pub(super) fn save(&self) -> SavedWorld {
        let random = SavedRandom {
            seed: self.random.get_seed(),
            stream: self.random.get_stream(),
            word_pos: self.random.get_word_pos(),
        };
        let (now_ns, epoch_ns) = (self.now_ns, self.epoch_ns);
        SavedWorld { now_ns, epoch_ns, random, log_lines_dropped: self.log_lines_dropped }
    }

    pub(super) fn install(&mut self, saved: &SavedWorld) {
        self.now_ns = saved.now_ns;
        self.epoch_ns = saved.epoch_ns;
        self.log_lines_dropped = saved.log_lines_dropped;
        self.random = ChaCha12Rng::from_seed(saved.random.seed);
        self.random.set_stream(saved.random.stream);
        self.random.set_word_pos(saved.random.word_pos);
    }

    /// Moves the guest's clock, never backwards; returns where it stands.
    pub(super) fn advance(&mut self, now_ns: i64) -> i64 {
        self.now_ns = self.now_ns.max(now_ns);
        self.now_ns
    }

    pub(super) fn monotonic_ns(&self) -> i64 {
        self.now_ns
    }

    pub(super) fn realtime_ns(&self) -> i64 {
        self.epoch_ns.saturating_add(self.now_ns)
    }

    pub(super) fn reseed(&mut self, seed: [u8; 32]) {
        self.random = ChaCha12Rng::from_seed(seed);
    }

    pub(super) fn random_u64(&mut self) -> u64 {
        self.random.next_u64()
    }

    pub(super) fn random_fill(&mut self, bytes: &mut [u8]) {
        self.random.fill_bytes(bytes);
    }

    pub(super) fn log(&mut self, level: LogLevel, text: &[u8]) {
        if self.log.len() >= LOG_LINES_PER_POLL_MAX {
            self.log_lines_dropped += 1;
            return;
        }
        let text = String::from_utf8_lossy(&text[..text.len().min(limits::LOG_LINE_BYTES_MAX)]).into_owned();
        self.log.push(LogLine { at_ns: self.now_ns, level: level as u32, text });
    }

    pub(super) fn take_log(&mut self) -> Vec<LogLine> {
        if self.log_lines_dropped > 0 {
            let text = format!("{} more log lines in one poll were dropped", self.log_lines_dropped);
            self.log.push(LogLine { at_ns: self.now_ns, level: LogLevel::Warn as u32, text });
            self.log_lines_dropped = 0;
        }
        std::mem::take(&mut self.log)
    }
}

/// Limit of the netstack's memory: what it needs itself, and what the configuration lets it use for rings and buffers,
/// with half as much again for the sizes that blocks come in.
pub(crate) fn stack_bytes_max(network: &roam_netstack::Config) -> usize {
    let bytes = [network.rx_ring_bytes, network.tx_ring_bytes, network.buffer_bytes_max].map(|bytes| bytes as usize);
    NETSTACK_BYTES_MAX + bytes.iter().sum::<usize>() / 2 * 3
}

impl ResourceLimiter for World {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let (bytes, bytes_max) = if self.in_stack {
            (&mut self.stack_bytes, self.stack_bytes_max)
        } else {
            (&mut self.memory_bytes, self.memory_bytes_max)
        };
        let after = bytes.saturating_add(desired.saturating_sub(current));
        if after > bytes_max {
            return Ok(false);
        }
        *bytes = after;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired as u64 <= TABLE_ELEMENTS_MAX)
    }
}
