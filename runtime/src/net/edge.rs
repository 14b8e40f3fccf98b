//! The loop between a TAP and a machine.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use roam_netstack::{BATCH_FRAMES, FRAME_BYTES_MAX, Ring};

use super::Machine;
use super::offload::{Header, RUN_PACKETS_MAX, Run, prepare, split_udp, verify};
use super::tap::{Tap, TapError};
use super::watchdog::Watchdog;
use crate::api::PollTimes;
use crate::guest::{LogLine, Stopped};

/// How the loop behaves.
#[derive(Clone, Debug, Default)]
pub struct EdgeOptions {
    /// How long to look for frames before going to sleep: less latency for a busy core.
    pub busy_poll: Duration,
}

/// What went through, and what did not.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct EdgeCounters {
    /// Polls of the machine.
    pub polls: u64,
    /// How long they took.
    pub poll_times: PollTimes,
    /// Frames read from the TAP.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames written to the TAP. A frame of many segments counts once.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames with a wrong checksum, not handed on.
    pub rx_checksum_errors: u64,
    /// Frames the kernel did not take.
    pub tx_dropped: u64,
}

/// Why the loop ended although nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The stop descriptor became readable.
    Asked,
}

/// Why the loop failed.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The device.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The machine ended by itself.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// Waiting for frames failed.
    #[error("waiting for frames failed")]
    Wait(#[source] Errno),
}

/// Moves frames between a TAP and a machine.
pub struct Edge {
    tap: Tap,
    options: EdgeOptions,
    counters: EdgeCounters,
    started: Instant,
    /// A frame of many datagrams, on its way into the ring.
    large_frame: Vec<u8>,
}

/// While there is always something to do, the stop descriptor is looked at once in this many turns, and sooner where
/// those take long.
const TURNS_PER_STOP_CHECK: u64 = 256;
const STOP_CHECK_NS: i64 = 10_000_000;

impl Edge {
    /// The machine's clock starts now, at 0.
    pub fn new(tap: Tap, options: EdgeOptions) -> Self {
        Self { tap, options, counters: EdgeCounters::default(), started: Instant::now(), large_frame: Vec::new() }
    }

    /// What went through so far.
    pub fn counters(&self) -> &EdgeCounters {
        &self.counters
    }

    /// Runs until `stop` is readable or the machine ends. Log lines go to `log` as they come, the last ones included.
    pub fn run(
        &mut self,
        machine: &mut impl Machine,
        watchdog: &Watchdog,
        stop: BorrowedFd<'_>,
        mut log: impl FnMut(LogLine),
    ) -> Result<Ended, EdgeError> {
        let mut looked_ns = self.now_ns();
        loop {
            let received = self.receive(machine)?;
            let now_ns = self.now_ns();
            let polled = watchdog.guard(|| machine.poll(now_ns));
            self.counters.poll_times.record(self.now_ns().saturating_sub(now_ns) as u64);
            machine.take_log().into_iter().for_each(&mut log);
            let polled = polled?;
            self.counters.polls += 1;
            self.transmit(machine)?;
            if polled.again || received == BATCH_FRAMES || self.spin(machine)? {
                // The time this turn began at: the last look was in another.
                if self.counters.polls.is_multiple_of(TURNS_PER_STOP_CHECK) || now_ns - looked_ns >= STOP_CHECK_NS {
                    looked_ns = now_ns;
                    if self.wait(stop, Some(Duration::ZERO))? {
                        return Ok(Ended::Asked);
                    }
                }
            } else {
                let deadline_ns = machine.deadline_ns()?;
                let timeout =
                    deadline_ns.map(|at| Duration::from_nanos(at.saturating_sub(self.now_ns()).max(0) as u64));
                watchdog.sleep();
                let asked = self.wait(stop, timeout);
                watchdog.wake();
                if asked? {
                    return Ok(Ended::Asked);
                }
            }
        }
    }

    fn now_ns(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }

    /// Reads up to a batch of frames straight into the rx ring; returns how many.
    fn receive(&mut self, machine: &mut impl Machine) -> Result<usize, EdgeError> {
        let mut ring = machine.rx();
        for received in 0..BATCH_FRAMES {
            // A full ring leaves frames in the device's own queue, which drops and counts by itself.
            let Some(slot) = ring.slot(FRAME_BYTES_MAX) else { return Ok(BATCH_FRAMES) };
            let Some((header, len)) = self.tap.read(slot)? else { return Ok(received) };
            self.counters.rx_frames += 1;
            self.counters.rx_bytes += len as u64;
            if !verify(header, &slot[..len]) {
                self.counters.rx_checksum_errors += 1;
            } else if header.is_udp_run() {
                self.large_frame.clear();
                self.large_frame.extend_from_slice(&slot[..len]);
                push_split(&mut ring, header, &self.large_frame);
            } else {
                ring.push(len, 0);
            }
        }
        Ok(BATCH_FRAMES)
    }

    /// Writes all frames of the tx ring.
    fn transmit(&mut self, machine: &mut impl Machine) -> Result<(), EdgeError> {
        let mut ring = machine.tx();
        while !ring.is_empty() {
            let (frames, bytes, taken) = match self.transmit_run(&ring)? {
                Some(run) => run,
                None => self.transmit_one(&mut ring)?,
            };
            if taken {
                self.counters.tx_frames += frames as u64;
                self.counters.tx_bytes += bytes as u64;
            } else {
                self.counters.tx_dropped += frames as u64;
            }
            for _ in 0..frames {
                ring.pop();
            }
        }
        Ok(())
    }

    fn transmit_one(&mut self, ring: &mut Ring<'_>) -> Result<(usize, usize, bool), EdgeError> {
        let frame = ring.front_mut().expect("the ring is not empty");
        let header = prepare(frame.bytes, frame.segment_bytes).to_bytes();
        let taken = self.tap.write(&[IoSlice::new(&header), IoSlice::new(frame.bytes)])?;
        Ok((1, frame.bytes.len(), taken))
    }

    /// Writes the packets at the front of the ring as one frame, where the kernel can cut it and there are two.
    fn transmit_run(&self, ring: &Ring<'_>) -> Result<Option<(usize, usize, bool)>, EdgeError> {
        // A large frame is no part of a larger one.
        let mut frames = ring.frames().take_while(|frame| frame.segment_bytes == 0);
        let Some(first) = frames.next() else { return Ok(None) };
        let Some((mut run, payload)) = Run::begin(first.bytes) else { return Ok(None) };
        if run.is_udp() && !self.tap.segments_udp() {
            return Ok(None);
        }
        let mut parts = [IoSlice::new(&[]); RUN_PARTS_MAX];
        let mut count = 2;
        parts[count] = IoSlice::new(&first.bytes[payload]);
        count += 1;
        for frame in frames {
            let Some(payload) = run.add(frame.bytes) else { break };
            parts[count] = IoSlice::new(&frame.bytes[payload]);
            count += 1;
        }
        if run.is_single() {
            return Ok(None);
        }
        let bytes = parts[2..count].iter().map(|part| part.len()).sum();
        let (header, headers) = run.finish();
        let header = header.to_bytes();
        parts[0] = IoSlice::new(&header);
        parts[1] = IoSlice::new(headers);
        let taken = self.tap.write(&parts[..count])?;
        Ok(Some((count - 2, bytes, taken)))
    }

    /// Looks for a frame for as long as busy polling lasts, but not past the machine's deadline.
    fn spin(&mut self, machine: &mut impl Machine) -> Result<bool, EdgeError> {
        if self.options.busy_poll.is_zero() {
            return Ok(false);
        }
        let mut until = Instant::now() + self.options.busy_poll;
        if let Some(deadline_ns) = machine.deadline_ns()? {
            until = until.min(self.started + Duration::from_nanos(deadline_ns.max(0) as u64));
        }
        while Instant::now() < until {
            if self.readable(Some(Duration::ZERO))? {
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        Ok(false)
    }

    fn readable(&self, timeout: Option<Duration>) -> Result<bool, EdgeError> {
        let mut fds = [PollFd::new(self.tap.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, timeout)? > 0)
    }

    /// Sleeps until a frame, the timeout or `stop`; true for `stop`.
    fn wait(&self, stop: BorrowedFd<'_>, timeout: Option<Duration>) -> Result<bool, EdgeError> {
        let mut fds = [PollFd::new(self.tap.as_fd(), PollFlags::POLLIN), PollFd::new(stop, PollFlags::POLLIN)];
        poll(&mut fds, timeout)?;
        Ok(fds[1].any().unwrap_or(false))
    }
}

fn push_split(ring: &mut Ring<'_>, header: Header, frame: &[u8]) {
    for datagram in split_udp(header, frame).into_iter().flatten() {
        match ring.slot(datagram.bytes()) {
            Some(slot) => {
                datagram.write(slot);
                ring.push(datagram.bytes(), 0);
            }
            None => ring.count_dropped(1),
        }
    }
}

/// virtio-net header, headers, payloads.
const RUN_PARTS_MAX: usize = 2 + RUN_PACKETS_MAX;

fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<i32, EdgeError> {
    match ppoll(fds, timeout.map(TimeSpec::from_duration), None) {
        Ok(count) => Ok(count),
        Err(Errno::EINTR) => Ok(0),
        Err(error) => Err(EdgeError::Wait(error)),
    }
}
