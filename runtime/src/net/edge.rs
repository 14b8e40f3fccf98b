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
    /// A descriptor of [`Watched`] is ready.
    Asked,
}

/// What a loop looks at beside its TAP, and ends for between two polls.
#[derive(Clone, Copy, Debug)]
pub struct Watched<'a> {
    /// Readable when somebody wants something. While there is always something to do it is looked at now and again.
    pub bell: BorrowedFd<'a>,
    /// Ready for these when somebody who is waited for wants something: looked at after every poll.
    pub hold: Option<(BorrowedFd<'a>, PollFlags)>,
}

impl<'a> From<BorrowedFd<'a>> for Watched<'a> {
    fn from(bell: BorrowedFd<'a>) -> Self {
        Self { bell, hold: None }
    }
}

impl Watched<'_> {
    /// Sleeps until one of these, or the TAP if there is one, is ready, or the time is up; whether one of these is.
    pub fn wait(&self, tap: Option<&Tap>, timeout: Option<Duration>) -> Result<bool, EdgeError> {
        let mut fds: [_; 3] = std::array::from_fn(|_| PollFd::new(self.bell, PollFlags::POLLIN));
        let mut count = 1;
        if let Some((hold, flags)) = self.hold {
            fds[count] = PollFd::new(hold, flags);
            count += 1;
        }
        let watched = count;
        if let Some(tap) = tap {
            fds[count] = PollFd::new(tap.as_fd(), PollFlags::POLLIN);
            count += 1;
        }
        poll(&mut fds[..count], timeout)?;
        Ok(fds[..watched].iter().any(|fd| fd.any().unwrap_or(false)))
    }
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
    /// The machine's clock at `started`.
    began_ns: i64,
    started: Instant,
    /// How much less time the machine has than it would take, percent.
    throttle_percent: u8,
    /// For how long it must rest yet.
    rest_ns: i64,
    /// A frame of many datagrams, on its way into the ring.
    large_frame: Vec<u8>,
}

/// A turn of the loop.
struct Turn {
    began_ns: i64,
    took_ns: i64,
    /// There is more to do at once.
    busy: bool,
}

/// Longest rest after one poll.
const REST_NS_MAX: i64 = 50_000_000;
/// A shorter rest waits for the next: waking up takes longer.
const REST_NS_MIN: i64 = 100_000;
/// Frames of the first poll of a guest that has come: many wait, and the first answers are not to wait for the last.
const FIRST_FRAMES: usize = 4;
/// While there is always something to do, the bell is looked at once in this many turns, and sooner where
/// those take long.
const TURNS_PER_STOP_CHECK: u64 = 256;
const STOP_CHECK_NS: i64 = 10_000_000;

impl Edge {
    /// The machine's clock starts now, at 0.
    pub fn new(tap: Tap, options: EdgeOptions) -> Self {
        Self {
            tap,
            options,
            counters: EdgeCounters::default(),
            began_ns: 0,
            started: Instant::now(),
            throttle_percent: 0,
            rest_ns: 0,
            large_frame: Vec::new(),
        }
    }

    /// The device.
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// The machine's clock.
    pub fn now_ns(&self) -> i64 {
        let elapsed_ns = i64::try_from(self.started.elapsed().as_nanos()).unwrap_or(i64::MAX);
        self.began_ns.saturating_add(elapsed_ns)
    }

    /// From now on the machine's clock goes on from there.
    pub fn set_clock(&mut self, now_ns: i64) {
        (self.began_ns, self.started) = (now_ns, Instant::now());
    }

    /// From now on the machine rests after its polls, so that it has that much less time, percent, at most 99.
    pub fn throttle(&mut self, percent: u8) {
        self.throttle_percent = percent.min(99);
        self.rest_ns = 0;
    }

    /// What went through so far.
    pub fn counters(&self) -> &EdgeCounters {
        &self.counters
    }

    /// Runs until one of `watched` is ready or the machine ends. Log lines go to `log` as they come, the last ones
    /// included.
    pub fn run(
        &mut self,
        machine: &mut impl Machine,
        watchdog: &Watchdog,
        watched: Watched<'_>,
        mut log: impl FnMut(LogLine),
    ) -> Result<Ended, EdgeError> {
        let mut looked_ns = self.now_ns();
        loop {
            // Left over from a run that was ended.
            if self.rest(watchdog, watched)? {
                return Ok(Ended::Asked);
            }
            let turn = self.turn(machine, watchdog, &mut log, BATCH_FRAMES)?;
            self.owe_rest(turn.took_ns);
            if turn.busy || self.spin(machine, watched)? {
                // The time this turn began at: the last look was in another.
                let is_due = watched.hold.is_some()
                    || self.counters.polls.is_multiple_of(TURNS_PER_STOP_CHECK)
                    || turn.began_ns - looked_ns >= STOP_CHECK_NS;
                if is_due {
                    looked_ns = turn.began_ns;
                    if watched.wait(None, Some(Duration::ZERO))? {
                        return Ok(Ended::Asked);
                    }
                }
            } else {
                let deadline_ns = machine.deadline_ns()?;
                let timeout =
                    deadline_ns.map(|at| Duration::from_nanos(at.saturating_sub(self.now_ns()).max(0) as u64));
                watchdog.sleep();
                let asked = watched.wait(Some(&self.tap), timeout);
                watchdog.wake();
                if asked? {
                    return Ok(Ended::Asked);
                }
            }
        }
    }

    /// One poll, with the frames before and after it.
    pub fn run_once(
        &mut self,
        machine: &mut impl Machine,
        watchdog: &Watchdog,
        mut log: impl FnMut(LogLine),
    ) -> Result<(), EdgeError> {
        self.turn(machine, watchdog, &mut log, FIRST_FRAMES).map(drop)
    }

    fn turn(
        &mut self,
        machine: &mut impl Machine,
        watchdog: &Watchdog,
        log: &mut impl FnMut(LogLine),
        frames_max: usize,
    ) -> Result<Turn, EdgeError> {
        let received = self.receive(machine, frames_max)?;
        let began_ns = self.now_ns();
        let polled = watchdog.guard(|| machine.poll(began_ns));
        let took_ns = self.now_ns().saturating_sub(began_ns);
        self.counters.poll_times.record(took_ns as u64);
        machine.take_log().into_iter().for_each(log);
        let polled = polled?;
        self.counters.polls += 1;
        self.transmit(machine)?;
        Ok(Turn { began_ns, took_ns, busy: polled.again || received == frames_max })
    }

    /// A poll took that long, while the machine is to have less time than it takes.
    fn owe_rest(&mut self, took_ns: i64) {
        let percent = i64::from(self.throttle_percent);
        if percent > 0 {
            let more_ns = took_ns.saturating_mul(percent) / (100 - percent);
            self.rest_ns = self.rest_ns.saturating_add(more_ns).min(REST_NS_MAX);
        }
    }

    /// Rests as long as it is owed; true as soon as one of `watched` is ready.
    fn rest(&mut self, watchdog: &Watchdog, watched: Watched<'_>) -> Result<bool, EdgeError> {
        while self.rest_ns >= REST_NS_MIN {
            let began_ns = self.now_ns();
            watchdog.sleep();
            let asked = watched.wait(None, Some(Duration::from_nanos(self.rest_ns as u64)));
            watchdog.wake();
            self.rest_ns = self.rest_ns.saturating_sub(self.now_ns() - began_ns);
            if asked? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads up to a batch of frames straight into the rx ring; returns how many.
    fn receive(&mut self, machine: &mut impl Machine, frames_max: usize) -> Result<usize, EdgeError> {
        let mut ring = machine.rx();
        for received in 0..frames_max {
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
        Ok(frames_max)
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
    fn spin(&mut self, machine: &mut impl Machine, watched: Watched<'_>) -> Result<bool, EdgeError> {
        if self.options.busy_poll.is_zero() {
            return Ok(false);
        }
        let mut until = Instant::now() + self.options.busy_poll;
        if let Some(deadline_ns) = machine.deadline_ns()? {
            let left_ns = deadline_ns.saturating_sub(self.now_ns()).max(0) as u64;
            until = until.min(Instant::now() + Duration::from_nanos(left_ns));
        }
        while Instant::now() < until {
            if self.is_ready(watched)? {
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        Ok(false)
    }

    /// Whether there is a frame, or somebody who is waited for wants something.
    fn is_ready(&self, watched: Watched<'_>) -> Result<bool, EdgeError> {
        let tap = PollFd::new(self.tap.as_fd(), PollFlags::POLLIN);
        let ready = match watched.hold {
            None => poll(&mut [tap], Some(Duration::ZERO))?,
            Some((hold, flags)) => poll(&mut [tap, PollFd::new(hold, flags)], Some(Duration::ZERO))?,
        };
        Ok(ready > 0)
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
