//! The daemon's end of a hold: a connection to a worker's datapath, for the thread that moves its guest.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use roam_snapshot::page::{MEMORIES_MAX, PAGE_BYTES, PAGES_MAX};
use roam_snapshot::protocol::STATE_BYTES_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::control::Near;
use super::frame::{self, FrameError, PREFIX_BYTES};
use super::{Ask, Frozen, Renewal, Reply, Request, Told, WorkerLayout};

/// Longest answer, bytes: a state, and what is around it.
const TOLD_BYTES_MAX: usize = STATE_BYTES_MAX + 4096;
/// Most bytes that are read at once.
const READ_BYTES_MAX: usize = 16 * 1024;
/// Longest memory, bytes.
const MEMORY_BYTES_MAX: u64 = PAGES_MAX as u64 * PAGE_BYTES as u64;
/// Most that is mapped for one, bytes: as much again for guards.
const MAPPED_BYTES_MAX: u64 = 2 * MEMORY_BYTES_MAX;
/// Where a process's memory ends (47 bits; with 5-level page tables it has to ask for more).
const ADDRESS_MAX: u64 = 1 << 47;
/// Longest reason of a refusal, bytes.
const REFUSAL_BYTES_MAX: usize = 1024;

/// A worker's datapath, held. Blocking; each question is answered within the limit or the hold is of no further use.
/// Dropping it leaves the guest as it is, but one that is [paused](Self::pause) goes on; another may take hold of it.
#[derive(Debug)]
pub struct Hold {
    stream: UnixStream,
    limit: Duration,
    /// After a failure: an answer to an earlier question may still come.
    spent: bool,
}

/// Why a worker's datapath cannot be held or asked.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Nobody listens there.
    #[error("no worker listens on {path}")]
    NotThere {
        /// The control socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The worker has ended, or somebody else has taken hold of it. Whether it did what it was asked for is not known.
    #[error("the worker has let go: it has ended, or somebody else has taken hold of it")]
    Gone,
    /// The same, and it did not do what it was asked for: it never read it.
    #[error("the worker has not heard: it has ended, or somebody else has taken hold of it")]
    Unheard,
    /// No answer in time. Whether the worker did what it was asked for is not known.
    #[error("the worker did not answer within {0:?}")]
    TimedOut(Duration),
    /// It cannot do that; it goes on as before.
    #[error("the worker refuses: {0}")]
    Refused(String),
    /// It answered something else than it was asked.
    #[error("the worker answered with something else")]
    Unexpected,
    /// What it says cannot be.
    #[error("the worker says what cannot be: {0}")]
    Impossible(&'static str),
    /// What it says cannot be understood.
    #[error("the conversation with the worker failed")]
    Frame(#[from] FrameError),
    /// An earlier question failed.
    #[error("the hold was given up; take it again")]
    Spent,
}

impl Hold {
    /// Takes hold of the worker that listens there, whoever had it. Also its process, by the kernel's word
    /// (`SO_PEERCRED`). `limit` is for this and for every question.
    pub fn take(control: &Path, limit: Duration) -> Result<(Self, u32), HoldError> {
        let (stream, pid) = dial(control, limit).map_err(|source| match source.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => HoldError::TimedOut(limit),
            _ => HoldError::NotThere { path: control.to_path_buf(), source },
        })?;
        let mut hold = Self { stream, limit, spent: false };
        match hold.exchange::<Reply>(&Request::Hold)? {
            Reply::Held => Ok((hold, pid)),
            _ => Err(HoldError::Unexpected),
        }
    }

    /// Where everything is.
    pub fn layout(&mut self) -> Result<WorkerLayout, HoldError> {
        match self.ask(&Ask::Layout)? {
            Told::Layout(layout) => self.believe(check_layout(&layout)).map(|()| layout),
            _ => Err(self.unexpected()),
        }
    }

    /// Has a guest that waits have memories that large, bytes.
    pub fn grow(&mut self, sizes: Vec<u64>) -> Result<(), HoldError> {
        self.done(&Ask::Grow(sizes))
    }

    /// Stops the guest between two polls; the same again if it is.
    pub fn freeze(&mut self) -> Result<Frozen, HoldError> {
        match self.ask(&Ask::Freeze)? {
            Told::Frozen(frozen) => self.believe(check_frozen(&frozen)).map(|()| frozen),
            _ => Err(self.unexpected()),
        }
    }

    /// Stops the guest between two polls for as long as this hold lasts, at most.
    pub fn pause(&mut self) -> Result<Frozen, HoldError> {
        match self.ask(&Ask::Pause)? {
            Told::Frozen(frozen) => self.believe(check_frozen(&frozen)).map(|()| frozen),
            _ => Err(self.unexpected()),
        }
    }

    /// Has the guest go on.
    pub fn thaw(&mut self) -> Result<(), HoldError> {
        self.done(&Ask::Thaw)
    }

    /// Keeps the guest from running for that much of its time, percent; 0 ends it, as does the hold's end.
    pub fn throttle(&mut self, percent: u8) -> Result<(), HoldError> {
        self.done(&Ask::Throttle(percent))
    }

    /// Gives a guest that waits, and whose memories are in place, its state, and has it go on after its clock stood still for
    /// so long; as another guest, if there is a renewal. When its first poll began and ended, nanoseconds of
    /// `CLOCK_MONOTONIC`.
    pub fn resume(
        &mut self,
        state: Vec<u8>,
        stopped_ns: u64,
        renewal: Option<Renewal>,
    ) -> Result<(u64, u64), HoldError> {
        match self.ask(&Ask::Resume { state, stopped_ns, renewal: renewal.map(Box::new) })? {
            Told::Resumed { began_ns, ended_ns } if began_ns <= ended_ns => Ok((began_ns, ended_ns)),
            Told::Resumed { .. } => self.believe(Err("a poll that ends before it begins")).map(|()| (0, 0)),
            _ => Err(self.unexpected()),
        }
    }

    fn done(&mut self, ask: &Ask) -> Result<(), HoldError> {
        match self.ask(ask)? {
            Told::Done => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    fn ask(&mut self, ask: &Ask) -> Result<Told, HoldError> {
        match self.exchange(ask)? {
            Told::Refused(why) => Err(HoldError::Refused(harmless(&why))),
            told => Ok(told),
        }
    }

    fn unexpected(&mut self) -> HoldError {
        self.spent = true;
        HoldError::Unexpected
    }

    fn believe(&mut self, checked: Result<(), &'static str>) -> Result<(), HoldError> {
        checked.map_err(|what| {
            self.spent = true;
            HoldError::Impossible(what)
        })
    }

    fn exchange<T: DeserializeOwned>(&mut self, message: &impl Serialize) -> Result<T, HoldError> {
        if self.spent {
            return Err(HoldError::Spent);
        }
        let message = frame::encode(message)?;
        self.spent = true;
        let deadline = Instant::now() + self.limit;
        (&self.stream).write_all(&message).map_err(|error| self.failed(error))?;
        let answer = self.hear(deadline)?;
        self.spent = false;
        Ok(answer)
    }

    /// One message, and nothing behind it: it is not the worker's turn then.
    fn hear<T: DeserializeOwned>(&self, deadline: Instant) -> Result<T, HoldError> {
        let (mut input, mut bytes) = (Vec::new(), [0; READ_BYTES_MAX]);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(HoldError::TimedOut(self.limit));
            }
            self.stream.set_read_timeout(Some(left)).map_err(|error| self.failed(error))?;
            match (&self.stream).read(&mut bytes) {
                Ok(0) => return Err(HoldError::Gone),
                Ok(read) => input.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
            let Some((prefix, body)) = input.split_first_chunk::<PREFIX_BYTES>() else { continue };
            let length = frame::length(*prefix, TOLD_BYTES_MAX)?;
            if body.len() >= length {
                return Ok(frame::decode(body)?);
            }
        }
    }

    fn failed(&self, error: io::Error) -> HoldError {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => HoldError::TimedOut(self.limit),
            // A socket that is closed with something unread in it resets its peer, else its peer reads its end (unix(7)).
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => HoldError::Unheard,
            _ => HoldError::Frame(error.into()),
        }
    }
}

fn dial(control: &Path, limit: Duration) -> io::Result<(UnixStream, u32)> {
    let near = Near::open(control)?;
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // For connecting, too: the worker's line may be full.
    let limit = TimeVal::new(limit.as_secs().try_into().unwrap_or(i64::MAX), limit.subsec_micros().into());
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(&near.path())?)?;
    let pid = getsockopt(&socket, sockopt::PeerCredentials)?.pid();
    // A process outside our pid namespace has no number here; it would be 0.
    let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0).ok_or(ErrorKind::NotFound)?;
    Ok((UnixStream::from(socket), pid))
}

/// Whether a worker can have such memories. It may lie; but what it says is what addresses are computed from.
fn check_layout(layout: &WorkerLayout) -> Result<(), &'static str> {
    let pages = |bytes: u64| bytes.is_multiple_of(PAGE_BYTES as u64);
    let memories = &layout.memories;
    let ends = |address: u64, bytes: u64| address.checked_add(bytes).is_some_and(|end| end <= ADDRESS_MAX);
    let mut ranges: Vec<_> = memories.iter().map(|memory| (memory.address, memory.mapped_bytes)).collect();
    ranges.sort_unstable();
    let checks = [
        ((1..=MEMORIES_MAX).contains(&memories.len()), "so many memories"),
        (memories.iter().all(|memory| memory.bytes <= MEMORY_BYTES_MAX && pages(memory.bytes)), "a memory's size"),
        (memories.iter().all(|memory| memory.initial_bytes <= memory.bytes), "a memory's first size"),
        (memories.iter().all(|memory| memory.unseen_bytes <= memory.bytes), "where unseen content ends"),
        (memories.iter().all(|memory| (memory.bytes..=MAPPED_BYTES_MAX).contains(&memory.mapped_bytes)), "a mapping"),
        (ranges.iter().all(|(address, bytes)| pages(*address) && pages(*bytes)), "an address within a page"),
        (ranges.iter().all(|(address, bytes)| ends(*address, *bytes)), "an address beyond all memory"),
        (ranges.iter().zip(ranges.iter().skip(1)).all(|(a, b)| a.0.saturating_add(a.1) <= b.0), "memories in memories"),
        (layout.tap >= 0 && layout.userfault.is_none_or(|number| number >= 0), "a descriptor's number"),
        (!(layout.waits && layout.frozen), "a guest that waits and is frozen"),
    ];
    checks.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, what)| Err(what))
}

fn check_frozen(frozen: &Frozen) -> Result<(), &'static str> {
    let is_size = |bytes: &u64| *bytes <= MEMORY_BYTES_MAX && bytes.is_multiple_of(PAGE_BYTES as u64);
    let checks = [
        (frozen.state.len() <= STATE_BYTES_MAX, "so long a state"),
        ((1..=MEMORIES_MAX).contains(&frozen.memory_bytes.len()), "so many memories"),
        (frozen.memory_bytes.iter().all(is_size), "a memory's size"),
    ];
    checks.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, what)| Err(what))
}

/// Of a worker that may be hostile, for a log or a terminal.
fn harmless(text: &str) -> String {
    let text = &text[..text.floor_char_boundary(REFUSAL_BYTES_MAX)];
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::WorkerMemory;
    use std::os::unix::net::UnixListener;
    use std::thread;

    const LIMIT: Duration = Duration::from_secs(20);

    fn layout() -> WorkerLayout {
        let memory = |address| WorkerMemory {
            address,
            bytes: 2 << 16,
            mapped_bytes: (4 << 30) + (32 << 20),
            initial_bytes: 1 << 16,
            unseen_bytes: 0,
        };
        let memories = vec![memory(0x7f00_0000_0000), memory(0x7e00_0000_0000)];
        WorkerLayout { memories, userfault: Some(5), tap: 3, waits: false, frozen: false }
    }

    #[test]
    fn what_cannot_be_is_told_apart() {
        assert_eq!(check_layout(&layout()), Ok(()));
        type Worsen = fn(&mut WorkerLayout);
        let worse: [(&str, Worsen); 13] = [
            ("so many memories", |layout| layout.memories.clear()),
            ("so many memories", |layout| layout.memories = vec![layout.memories[0]; 9]),
            ("a memory's size", |layout| layout.memories[0].bytes = (4 << 30) + 4096),
            ("a memory's size", |layout| layout.memories[1].bytes += 1),
            ("a memory's first size", |layout| layout.memories[1].initial_bytes = 3 << 16),
            ("where unseen content ends", |layout| layout.memories[1].unseen_bytes = 3 << 16),
            ("a mapping", |layout| layout.memories[0].mapped_bytes = 1 << 16),
            ("a mapping", |layout| layout.memories[0].mapped_bytes = 1 << 40),
            ("an address within a page", |layout| layout.memories[0].address += 1),
            ("an address beyond all memory", |layout| layout.memories[0].address = u64::MAX << 12),
            ("memories in memories", |layout| layout.memories[1].address = layout.memories[0].address + 4096),
            ("a descriptor's number", |layout| layout.userfault = Some(-1)),
            ("a guest that waits and is frozen", |layout| (layout.waits, layout.frozen) = (true, true)),
        ];
        for (what, make_worse) in worse {
            let mut layout = layout();
            make_worse(&mut layout);
            assert_eq!(check_layout(&layout), Err(what));
        }
        let frozen = Frozen { state: vec![1], memory_bytes: vec![1 << 16], at_ns: 1 };
        assert_eq!(check_frozen(&frozen), Ok(()));
        let odd = Frozen { memory_bytes: vec![1], ..frozen.clone() };
        assert_eq!(check_frozen(&odd), Err("a memory's size"));
        assert_eq!(check_frozen(&Frozen { memory_bytes: vec![], ..frozen }), Err("so many memories"));
    }

    /// A worker that lets itself be held and answers the first question with these bytes.
    fn asked(answer: &[u8], name: &str, limit: Duration) -> HoldError {
        let path = std::env::temp_dir().join(format!("roam-hold-{name}-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let answer = answer.to_vec();
        let worker = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 5]).unwrap();
            stream.write_all(&frame::encode(&Reply::Held).unwrap()).unwrap();
            stream.read_exact(&mut [0; 5]).unwrap();
            let _ = stream.write_all(&answer);
            if !answer.is_empty() {
                let _ = stream.read(&mut [0]);
            }
        });
        let (mut hold, pid) = Hold::take(&path, limit).unwrap();
        assert_eq!(pid, std::process::id());
        let error = hold.layout().unwrap_err();
        let is_refusal = matches!(error, HoldError::Refused(_));
        if !is_refusal {
            assert!(matches!(hold.layout(), Err(HoldError::Spent)));
        }
        drop(hold);
        worker.join().unwrap();
        std::fs::remove_file(&path).unwrap();
        error
    }

    #[test]
    fn whatever_a_worker_answers_is_an_error_or_an_answer() {
        let encoded = |told: &Told| frame::encode(told).unwrap();
        let half = asked(&[5, 0, 0, 0, 2], "half", Duration::from_millis(200));
        assert!(matches!(half, HoldError::TimedOut(_)), "{half}");
        let endless = asked(&[0xFF; 4096], "endless", LIMIT);
        assert!(matches!(endless, HoldError::Frame(FrameError::TooLong { .. })), "{endless}");
        let garbage = asked(&[3, 0, 0, 0, 9, 9, 9], "garbage", LIMIT);
        assert!(matches!(garbage, HoldError::Frame(FrameError::Decode(_))), "{garbage}");
        let more = asked(&encoded(&Told::Done).repeat(2), "more", LIMIT);
        assert!(matches!(more, HoldError::Frame(FrameError::Trailing(_))), "{more}");
        let other = asked(&encoded(&Told::Done), "other", LIMIT);
        assert!(matches!(other, HoldError::Unexpected), "{other}");
        let lies = asked(&encoded(&Told::Layout(WorkerLayout { tap: -1, ..layout() })), "lies", LIMIT);
        assert!(matches!(lies, HoldError::Impossible(_)), "{lies}");
        let refused = asked(&encoded(&Told::Refused("no\x1b[2J".repeat(1000))), "refused", LIMIT);
        assert!(matches!(&refused, HoldError::Refused(why) if why.len() < 4096 && !why.contains('\x1b')), "{refused}");
        let gone = asked(b"", "gone", LIMIT);
        assert!(matches!(gone, HoldError::Gone | HoldError::Unheard), "{gone}");
        let missing = Hold::take(Path::new("/nonexistent/control.sock"), LIMIT).unwrap_err();
        assert!(matches!(missing, HoldError::NotThere { .. }), "{missing}");
    }
}
