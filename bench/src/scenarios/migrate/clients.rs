//! Clients that ask all the time, on the same connections whatever becomes of the guest.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use roam_runtime::lab::Namespace;
use roam_runtime::load::{self, Plan, Progress, Report, Slice, Snapshot};

/// How finely it is known when replies came.
pub(super) const SLICE: Duration = Duration::from_millis(5);

/// A load that runs on a thread of its own until it is finished.
pub(super) struct Client {
    running: Option<JoinHandle<Result<Report>>>,
    stop: Arc<AtomicBool>,
    began: Instant,
}

/// What a client has seen.
pub(super) struct Asked {
    pub(super) report: Report,
    /// When the report's first slice begins.
    began: Instant,
}

impl Client {
    /// Starts it; returns when all is connected.
    pub(super) fn start(namespace: &Namespace, plan: Plan) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, told) = mpsc::channel();
        let mut watch = Watch { stop: stop.clone(), tell: Some(tell) };
        let namespace = namespace.clone();
        let running: JoinHandle<Result<Report>> =
            thread::spawn(move || Ok(namespace.run(|| load::run(&plan, &mut watch))??));
        match told.recv() {
            Ok(began) => Ok(Self { running: Some(running), stop, began }),
            // It ended before it began.
            Err(mpsc::RecvError) => match running.join().expect("a client does not panic") {
                Err(error) => Err(error).context("a client"),
                Ok(_) => unreachable!("a run is told of when it begins"),
            },
        }
    }

    /// Lets it ask nothing more.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Ends it and waits for late replies.
    pub(super) fn finish(mut self) -> Result<Asked> {
        let report = self.end().expect("it is ended once")?;
        Ok(Asked { report, began: self.began })
    }

    fn end(&mut self) -> Option<Result<Report>> {
        self.stop();
        let running = self.running.take()?;
        Some(running.join().expect("a client does not panic").context("a client"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Something else has gone wrong, and is what will be told.
        let _ = self.end();
    }
}

impl Asked {
    /// The slices that lie in that time, whole or in part.
    pub(super) fn slices(&self, span: &Range<Instant>) -> &[Slice] {
        let at = |time: Instant| time.saturating_duration_since(self.began).as_nanos() / SLICE.as_nanos();
        let all = &self.report.slices;
        let end = (at(span.end) as usize + 1).min(all.len());
        &all[(at(span.start) as usize).min(end)..end]
    }
}

struct Watch {
    stop: Arc<AtomicBool>,
    tell: Option<Sender<Instant>>,
}

impl Progress for Watch {
    fn update(&mut self, snapshot: &Snapshot<'_>) -> ControlFlow<()> {
        if let Some(tell) = self.tell.take() {
            // Nobody listens any more: then it is stopped, too.
            let _ = tell.send(Instant::now() - snapshot.elapsed);
        }
        // A second break would end the waiting for late replies.
        if self.stop.load(Ordering::Relaxed) && !snapshot.draining {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}
