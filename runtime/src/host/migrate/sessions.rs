//! What became of sessions that came here: those under way, and those whose guest was taken.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use roam_snapshot::protocol::target::TargetEvent;
use roam_snapshot::protocol::{SessionId, Standing};

use crate::host::layout::write_whole;

/// How long a session under way has to say how it stands.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Sessions remembered whose guest was here and has moved on or was deleted.
const GONE_MAX: usize = 1000;

/// All sessions of a host.
pub(in crate::host) struct Sessions {
    live: Mutex<HashMap<SessionId, Arc<Session>>>,
    /// Of guests that were taken here and are no more: the oldest first. As on disk.
    gone: Mutex<Vec<String>>,
    path: PathBuf,
}

/// A session under way, as others see it.
pub(super) struct Session {
    bell: EventFd,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    events: VecDeque<TargetEvent>,
    asker: Option<Asker>,
    over: Option<bool>,
}

/// Somebody who wants to know how a session stands.
pub(super) struct Asker(mpsc::Sender<Standing>);

impl Asker {
    /// He may have gone.
    pub(super) fn tell(self, standing: Standing) {
        let _ = self.0.send(standing);
    }
}

/// A session's id as text.
pub(super) fn text(session: SessionId) -> String {
    session.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Session {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Arc::new(Self { bell, slots: Mutex::default() }))
    }

    /// Readable when there is something to take.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Something happened elsewhere.
    pub(super) fn tell(&self, event: TargetEvent) {
        self.slots().events.push_back(event);
        let _ = self.bell.write(1);
    }

    /// What happened elsewhere. Silences the bell.
    pub(super) fn take_events(&self) -> VecDeque<TargetEvent> {
        let _ = self.bell.read();
        std::mem::take(&mut self.slots().events)
    }

    pub(super) fn take_asker(&self) -> Option<Asker> {
        self.slots().asker.take()
    }

    /// It is over: whether the guest is here.
    pub(super) fn over(&self, taken: bool) {
        let mut slots = self.slots();
        slots.over = Some(taken);
        if let Some(asker) = slots.asker.take() {
            asker.tell(standing(taken));
        }
    }

    fn ask(&self) -> Standing {
        let (sender, answer) = mpsc::channel();
        {
            let mut slots = self.slots();
            if let Some(taken) = slots.over {
                return standing(taken);
            }
            // One at a time: who asked before is told to ask again.
            slots.asker.replace(Asker(sender)).into_iter().for_each(|before| before.tell(Standing::Open));
            let _ = self.bell.write(1);
        }
        match answer.recv_timeout(ASK_LIMIT) {
            Ok(standing) => standing,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Standing::Open,
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn standing(taken: bool) -> Standing {
    if taken { Standing::Taken } else { Standing::Never }
}

impl Sessions {
    /// A list that cannot be read is as if it were empty, but it is said.
    pub(in crate::host) fn open(path: PathBuf) -> Self {
        let gone = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)),
        };
        let gone = gone.unwrap_or_else(|error: io::Error| {
            tracing::error!(path = %path.display(), %error, "it is not known any more which guests came here and went");
            Vec::new()
        });
        Self { live: Mutex::default(), gone: Mutex::new(gone), path }
    }

    /// One begins. `None` if there is one of that id.
    pub(super) fn begin(&self, id: SessionId) -> io::Result<Option<Arc<Session>>> {
        let session = Session::new()?;
        let mut live = self.live();
        if live.contains_key(&id) {
            return Ok(None);
        }
        live.insert(id, session.clone());
        Ok(Some(session))
    }

    pub(super) fn end(&self, id: SessionId) {
        self.live().remove(&id);
    }

    /// How one stands; `here` says whether a guest came with it that is on record. One that is not known was never taken: its
    /// token can come by its own connection only, and that is gone.
    pub(super) fn standing(&self, id: SessionId, here: impl FnOnce() -> bool) -> Standing {
        let live = self.live().get(&id).cloned();
        if let Some(session) = live {
            return session.ask();
        }
        standing(here() || self.gone().contains(&text(id)))
    }

    /// A guest that came with it goes.
    pub(in crate::host) fn note_gone(&self, id: String) -> io::Result<()> {
        let mut gone = self.gone();
        // Noted before, but not on disk.
        gone.retain(|other| *other != id);
        gone.push(id);
        let surplus = gone.len().saturating_sub(GONE_MAX);
        gone.drain(..surplus);
        write_whole(&self.path, &serde_json::to_vec(&*gone)?)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Session>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> MutexGuard<'_, Vec<String>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_taken_or_never_was() {
        let path = std::env::temp_dir().join(format!("roam-sessions-{}", std::process::id()));
        let sessions = Sessions::open(path.clone());
        let id = SessionId([7; 16]);
        assert_eq!(sessions.standing(id, || false), Standing::Never);
        assert_eq!(sessions.standing(id, || true), Standing::Taken);
        let session = sessions.begin(id).unwrap().unwrap();
        assert!(sessions.begin(id).unwrap().is_none());
        session.over(true);
        assert_eq!(sessions.standing(id, || false), Standing::Taken);
        sessions.end(id);
        sessions.note_gone(text(id)).unwrap();
        assert_eq!(Sessions::open(path.clone()).standing(id, || false), Standing::Taken);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn one_under_way_says_itself() {
        let sessions = Arc::new(Sessions::open("/nonexistent/sessions".into()));
        let id = SessionId([8; 16]);
        let session = sessions.begin(id).unwrap().unwrap();
        let asking = sessions.clone();
        let asked = std::thread::spawn(move || asking.standing(id, || false));
        let asker = loop {
            if let Some(asker) = session.take_asker() {
                break asker;
            }
        };
        asker.tell(Standing::Never);
        assert_eq!(asked.join().unwrap(), Standing::Never);
    }
}
