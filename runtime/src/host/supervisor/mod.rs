//! One task a guest: it starts the worker, watches it, decides what happens when it ends, and follows orders.
//!
//! ```text
//!  Host ── Order ──> mailbox ──> Actor ──> start, Worker, registry
//!   └───── look ───── Seen <───────┘
//! ```
//!
//! What the guest is doing can be looked at any time, whatever its task waits for: a guest that hangs holds up nobody.
//! In reading order: `policy` (when to start again), `actor`, `start`, `worker`, `ended`, `adopt`.

mod actor;
mod adopt;
mod ended;
mod policy;
mod start;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

pub(super) use actor::Begin;
pub(super) use adopt::{Found, end_stranger, end_strays, find};
pub(super) use start::{clear, network_config, start, start_failed, start_waiting};
pub(super) use worker::Worker;

use super::HostError;
use super::migrate::Leave;
use super::record::{GuestId, Record};
use super::shared::Shared;
use crate::api::{GuestName, GuestSpec, GuestView, MacText};

/// Orders that may wait; who comes on top waits to give his.
const ORDERS_MAX: usize = 16;

/// A supervised guest, as the host holds it. When the last handle goes, its task ends and leaves the worker serving.
#[derive(Clone)]
pub(super) struct Supervised {
    pub(super) id: GuestId,
    mailbox: mpsc::Sender<Order>,
    seen: Arc<watch::Sender<Seen>>,
}

/// What there is to see of a guest.
pub(super) struct Seen {
    view: GuestView,
    worker: Option<Arc<Worker>>,
}

/// Where an order's answer goes. Who gave it may have gone.
type Answer<T> = oneshot::Sender<Result<T, HostError>>;

enum Order {
    Start(Answer<GuestView>),
    Stop {
        grace: Duration,
        answer: Answer<GuestView>,
    },
    Delete {
        force: bool,
        answer: Answer<()>,
    },
    /// Look whose its address is: that may have changed.
    Owner,
    /// Begin to leave for another host.
    Depart(Leave),
}

impl Supervised {
    /// Begins to supervise a guest.
    pub(super) fn begin(shared: Arc<Shared>, record: Record, begin: Begin) -> Self {
        let (mailbox, orders) = mpsc::channel(ORDERS_MAX);
        let id = record.id;
        let (actor, state) = actor::Actor::new(shared, record, orders, begin);
        let seen = actor.seen();
        tokio::spawn(actor.run(state));
        Self { id, mailbox, seen }
    }

    pub(super) fn view(&self) -> GuestView {
        self.seen.borrow().view.clone()
    }

    pub(super) fn spec<T>(&self, look: impl FnOnce(&GuestSpec) -> T) -> T {
        look(&self.seen.borrow().view.spec)
    }

    pub(super) fn mac(&self) -> MacText {
        self.seen.borrow().view.network.mac
    }

    pub(super) fn worker(&self) -> Option<Arc<Worker>> {
        self.seen.borrow().worker.clone()
    }

    /// Notes whether that worker answers.
    pub(super) fn note_answer(&self, pid: u32, answers: bool) {
        self.seen.send_if_modified(|seen| {
            let changed = seen.view.pid == Some(pid) && seen.view.responsive != answers;
            if changed {
                seen.view.responsive = answers;
                if !answers {
                    tracing::warn!(guest = %seen.view.spec.name, pid, "the worker does not answer");
                }
            }
            changed
        });
    }

    /// Asks the worker, if there is one, for a sign of life.
    pub(super) async fn look(&self) -> GuestView {
        if let Some(worker) = self.worker() {
            self.note_answer(worker.pid(), worker.hello().await.is_ok());
        }
        self.view()
    }

    /// Closed when the guest is gone.
    pub(super) fn watch(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// Lets go, and waits for the end of its task.
    pub(super) fn over(self) -> impl Future<Output = ()> {
        let mut watch = self.watch();
        drop(self);
        async move { while watch.changed().await.is_ok() {} }
    }

    /// Whether its task has ended.
    pub(super) fn is_over(&self) -> bool {
        self.mailbox.is_closed()
    }

    pub(super) async fn start(&self, name: &GuestName) -> Result<GuestView, HostError> {
        self.order(name, Order::Start).await
    }

    pub(super) async fn stop(&self, name: &GuestName, grace: Duration) -> Result<GuestView, HostError> {
        self.order(name, |answer| Order::Stop { grace, answer }).await
    }

    pub(super) async fn delete(&self, name: &GuestName, force: bool) -> Result<(), HostError> {
        self.order(name, |answer| Order::Delete { force, answer }).await
    }

    /// Has it look whose its address is. Does not wait.
    pub(super) fn check_owner(&self) {
        if let Err(mpsc::error::TrySendError::Full(order)) = self.mailbox.try_send(Order::Owner) {
            let mailbox = self.mailbox.clone();
            // Gone meanwhile: nothing is left to look for.
            tokio::spawn(async move { drop(mailbox.send(order).await) });
        }
    }

    /// Has it begin to leave. `leave` is dropped if it does not serve.
    pub(super) async fn depart(&self, leave: Leave) {
        // Gone meanwhile: nothing is left to leave.
        let _ = self.mailbox.send(Order::Depart(leave)).await;
    }

    async fn order<T>(&self, name: &GuestName, order: impl FnOnce(Answer<T>) -> Order) -> Result<T, HostError> {
        let (answer, answered) = oneshot::channel();
        let gone = || HostError::NoGuest(name.clone());
        self.mailbox.send(order(answer)).await.map_err(|_closed| gone())?;
        answered.await.map_err(|_closed| gone())?
    }
}
