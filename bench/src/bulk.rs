//! The client of TCP bulk transfer: kernel sockets, large reads or writes, content checked by offset.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use roam_abi::pattern::{self, CHARGEN_PERIOD_BYTES};
use serde_json::{Value, json};

use crate::engines::Server;
use crate::output::Results;
use crate::process::thread_cpu_time;

/// What one read or write moves at most.
const CHUNK_BYTES: usize = 256 * 1024;
/// Of every so many bytes received one chunk is checked: enough to see any fault that lasts, too little to be seen in
/// the result.
const CHECK_EVERY_BYTES: u64 = 1024 * 1024;
/// A connection that moves nothing for this long is broken.
const STALL_LIMIT: Duration = Duration::from_secs(10);

/// What the client does.
pub(crate) struct Bulk {
    /// Whether the server sends (chargen) or receives (discard).
    pub(crate) down: bool,
    /// How long bytes are moved before they count: slow start, and buffers that fill.
    pub(crate) warmup: Duration,
    /// How long they count.
    pub(crate) duration: Duration,
    /// Connections at once, each on a thread.
    pub(crate) connections: usize,
}

/// What one connection moved.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    bytes: u64,
    corrupted: u64,
    resets: u64,
    cpu: Duration,
    silence: Duration,
}

impl Bulk {
    /// Moves bytes from or to `target`, which `server` is. To be called in the client's namespace.
    pub(crate) fn measure(&self, target: SocketAddr, server: &mut Server) -> Result<Results> {
        let connect = || -> Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&target, STALL_LIMIT);
            let stream = stream.with_context(|| format!("connecting to {target}"))?;
            stream.set_read_timeout(Some(STALL_LIMIT))?;
            stream.set_write_timeout(Some(STALL_LIMIT))?;
            Ok(stream)
        };
        let streams = (0..self.connections).map(|_| connect()).collect::<Result<Vec<_>>>()?;
        let begin = Instant::now() + self.warmup;
        let end = begin + self.duration;
        let (moved, server_cpu) = thread::scope(|scope| {
            let spawn = |stream| scope.spawn(move || self.carry(stream, begin, end));
            let threads: Vec<_> = streams.into_iter().map(spawn).collect();
            thread::sleep(begin.saturating_duration_since(Instant::now()));
            let before = server.cpu_time()?;
            thread::sleep(end.saturating_duration_since(Instant::now()));
            let server_cpu = server.cpu_time()?.saturating_sub(before);
            let moved = threads.into_iter().map(|thread| thread.join().expect("a client does not panic"));
            anyhow::Ok((moved.collect::<Result<Vec<_>>>()?, server_cpu))
        })?;
        Ok(self.results(&moved, server_cpu.as_secs_f64()))
    }

    fn results(&self, moved: &[Moved], server_cpu_seconds: f64) -> Results {
        let seconds = self.duration.as_secs_f64();
        let bytes: u64 = moved.iter().map(|moved| moved.bytes).sum();
        let client_cpu: Duration = moved.iter().map(|moved| moved.cpu).sum();
        let silence = moved.iter().map(|moved| moved.silence).max().unwrap_or_default();
        let results = json!({
            "bits_per_s": bytes as f64 * 8.0 / seconds,
            "corrupted": moved.iter().map(|moved| moved.corrupted).sum::<u64>(),
            "resets": moved.iter().map(|moved| moved.resets).sum::<u64>(),
            "silence_us_max": silence.as_micros() as u64,
            "cpu_us_per_mib": server_cpu_seconds * 1e6 / (bytes.max(1) as f64 / f64::from(1 << 20)),
            "server_cpu_share": server_cpu_seconds / seconds,
            "client_cpu_share": client_cpu.as_secs_f64() / seconds,
        });
        let Value::Object(results) = results else { unreachable!("an object was written") };
        results
    }

    /// Moves bytes until `end`, and counts from `begin`.
    fn carry(&self, mut stream: TcpStream, begin: Instant, end: Instant) -> Result<Moved> {
        let mut moved = Moved::default();
        let mut checker = Checker::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut last = Instant::now();
        let mut cpu_before = None;
        loop {
            let result = if self.down { stream.read(&mut chunk) } else { stream.write(&chunk) };
            let now = Instant::now();
            let count = match result {
                Ok(count) if count > 0 => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // However it ended: no bulk connection may end by itself.
                Ok(_) | Err(_) => {
                    moved.resets += 1;
                    break;
                }
            };
            if self.down {
                moved.corrupted += checker.check(&chunk[..count]);
            }
            if now >= end {
                break;
            }
            if now >= begin {
                if cpu_before.is_none() {
                    cpu_before = Some(thread_cpu_time()?);
                } else {
                    moved.silence = moved.silence.max(now - last);
                }
                moved.bytes += count as u64;
            }
            last = now;
        }
        if let Some(before) = cpu_before {
            moved.cpu = thread_cpu_time()?.saturating_sub(before);
        }
        Ok(moved)
    }
}

/// Looks at some of what chargen sends.
struct Checker {
    /// Two periods, so that a chunk can be compared in whole periods wherever it begins.
    table: Vec<u8>,
    offset: u64,
    next_check: u64,
}

impl Checker {
    fn new() -> Self {
        let mut table = vec![0; 2 * CHARGEN_PERIOD_BYTES];
        let (first, second) = table.split_at_mut(CHARGEN_PERIOD_BYTES);
        pattern::fill(first, 0);
        second.copy_from_slice(first);
        Self { table, offset: 0, next_check: 0 }
    }

    /// Takes the next bytes of the stream; 1 if they were checked and differ.
    fn check(&mut self, bytes: &[u8]) -> u64 {
        let start = (self.offset % CHARGEN_PERIOD_BYTES as u64) as usize;
        let due = self.offset >= self.next_check;
        self.offset += bytes.len() as u64;
        if !due {
            return 0;
        }
        self.next_check = self.offset + CHECK_EVERY_BYTES;
        let period = &self.table[start..start + CHARGEN_PERIOD_BYTES];
        u64::from(!bytes.chunks(CHARGEN_PERIOD_BYTES).all(|chunk| chunk == &period[..chunk.len()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_in_a_checked_chunk_is_found() {
        let stream: Vec<u8> = (0..3 << 20).map(|n| pattern::pattern(n % CHARGEN_PERIOD_BYTES as u64)).collect();
        let faults = |stream: &[u8]| {
            let mut checker = Checker::new();
            stream.chunks(100_000).map(|chunk| checker.check(chunk)).sum::<u64>()
        };
        assert_eq!(faults(&stream), 0);
        let mut wrong = stream.clone();
        wrong[99_999] ^= 1;
        assert_eq!(faults(&wrong), 1);
        assert!(faults(&stream[1..]) > 1, "a lost byte shows in every check after it");
    }
}
