//! The loop: send what is due, take what came, sleep until the next is due.
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use nix::errno::Errno;

use super::account::Account;
use super::plan::{Kind, Plan, PlanError};
use super::poller::{Clock, Poller, Ready};
use super::progress::{Progress, Snapshot};
use super::report::Report;
use super::tcp::{Echo, HttpStream, Kv, Tcp};
use super::udp::Udp;

/// All connections must be up within 5 s from the start; later ones are tried anew for as long as the run lasts.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long duplicates are watched for when all is answered: 20 ms.
const LINGER_NS: u64 = 20_000_000;

/// How long before a send is due the client stops sleeping: 50 µs, what waking up may take.
const SPIN_NS: u64 = 50_000;

/// How often progress is told, and the longest sleep: 100 ms.
const TICK_NS: u64 = 100_000_000;

/// A run that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Asked for the impossible.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The target was not reached at the start.
    #[error("cannot connect to {target}")]
    Connect {
        /// Whom.
        target: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel would not watch sockets.
    #[error("cannot wait for sockets")]
    Poll(#[source] Errno),
}

/// The socket side of a run, by transport.
pub(super) trait Driver {
    /// Goes on connecting; whether all connections are up.
    fn is_connected(&mut self, poller: &Poller, ready: &[Ready], now_ns: u64) -> Result<bool, LoadError>;

    /// The run starts: once, when all are connected.
    fn begin(&mut self, account: &mut Account);

    /// Sends what is due, as far as the kernel takes it.
    fn send(&mut self, poller: &Poller, account: &mut Account, clock: &Clock) -> Result<(), LoadError>;

    /// Takes what came.
    fn receive(
        &mut self,
        poller: &Poller,
        ready: &[Ready],
        account: &mut Account,
        clock: &Clock,
    ) -> Result<(), LoadError>;

    /// When `send` should be called even if nothing new is due and no socket is ready.
    fn next_ns(&self) -> Option<u64>;
}

/// Does what the plan says, on this thread.
///
/// Ends at the latest [`CONNECT_TIMEOUT`] + warm-up + duration + drain from now, plus what the system's scheduler adds.
pub fn run(plan: &Plan, progress: &mut dyn Progress) -> Result<Report, LoadError> {
    plan.check()?;
    let poller = Poller::new().map_err(LoadError::Poll)?;
    let driver: Box<dyn Driver> = match plan.kind {
        Kind::UdpSquare | Kind::UdpEcho => Box::new(Udp::open(plan, &poller)?),
        Kind::TcpEcho => Box::new(Tcp::new(plan, Echo::new)),
        Kind::Kv => Box::new(Tcp::new(plan, Kv::new)),
        Kind::HttpStream => Box::new(Tcp::new(plan, HttpStream::new)),
    };
    let mut run = Run { clock: Clock::start(), poller, driver, ready: Vec::new() };
    run.connect(plan)?;
    run.send_and_receive(plan, progress)
}

struct Run {
    clock: Clock,
    poller: Poller,
    driver: Box<dyn Driver>,
    ready: Vec<Ready>,
}

impl Run {
    fn connect(&mut self, plan: &Plan) -> Result<(), LoadError> {
        loop {
            let now_ns = self.clock.now_ns();
            self.poller.poll(&mut self.ready).map_err(LoadError::Poll)?;
            if self.driver.is_connected(&self.poller, &self.ready, now_ns)? {
                return Ok(());
            }
            let left_ns = (CONNECT_TIMEOUT.as_nanos() as u64).saturating_sub(now_ns);
            if left_ns == 0 {
                let source = io::Error::from(io::ErrorKind::TimedOut);
                return Err(LoadError::Connect { target: plan.target, source });
            }
            self.poller.sleep_ns(left_ns.min(TICK_NS)).map_err(LoadError::Poll)?;
        }
    }

    fn send_and_receive(mut self, plan: &Plan, progress: &mut dyn Progress) -> Result<Report, LoadError> {
        let mut account = Account::new(plan, 0);
        let start_ns = self.clock.now_ns();
        account.start_at(start_ns);
        let total = plan.warmup + plan.duration;
        self.driver.begin(&mut account);

        let mut watch = Watch { progress, start_ns, total, next_ns: start_ns };
        let drain_ns = plan.drain.as_nanos() as u64;
        let mut now_ns = start_ns;
        // The second bound is for a kernel that takes no more, ever.
        while !account.is_over(now_ns) && now_ns < account.tally().to_ns + drain_ns {
            self.turn(&mut account)?;
            now_ns = self.clock.now_ns();
            if watch.tick(&mut account, now_ns, false).is_break() {
                account.end_at(now_ns);
            }
            let due_ns = account.next_ns().map(|due_ns| due_ns.saturating_sub(SPIN_NS));
            let end_ns = account.tally().to_ns;
            self.rest(&[due_ns, Some(watch.next_ns), Some(end_ns)], now_ns)?;
        }

        let drain_end_ns = account.tally().to_ns + drain_ns;
        let mut settled_ns = None;
        loop {
            self.turn(&mut account)?;
            let now_ns = self.clock.now_ns();
            let settled_ns = account.is_settled().then(|| *settled_ns.get_or_insert(now_ns));
            let end_ns = settled_ns.map_or(drain_end_ns, |settled_ns| drain_end_ns.min(settled_ns + LINGER_NS));
            if now_ns >= end_ns || watch.tick(&mut account, now_ns, true).is_break() {
                return Ok(account.finish(now_ns));
            }
            self.rest(&[Some(watch.next_ns), Some(end_ns)], now_ns)?;
        }
    }

    /// One round: everything that is due, everything that came.
    fn turn(&mut self, account: &mut Account) -> Result<(), LoadError> {
        self.driver.send(&self.poller, account, &self.clock)?;
        self.poller.poll(&mut self.ready).map_err(LoadError::Poll)?;
        self.driver.receive(&self.poller, &self.ready, account, &self.clock)
    }

    /// Sleeps until the earliest of these times, unless a socket is ready before.
    fn rest(&mut self, until_ns: &[Option<u64>], now_ns: u64) -> Result<(), LoadError> {
        let until_ns = until_ns.iter().copied().chain([self.driver.next_ns()]).flatten().min().unwrap_or(now_ns);
        if until_ns > now_ns {
            self.poller.sleep_ns(until_ns - now_ns).map_err(LoadError::Poll)?;
        }
        Ok(())
    }
}

/// Does what is to be done ten times a second.
struct Watch<'a> {
    progress: &'a mut dyn Progress,
    start_ns: u64,
    total: Duration,
    next_ns: u64,
}

impl Watch<'_> {
    fn tick(&mut self, account: &mut Account, now_ns: u64, draining: bool) -> ControlFlow<()> {
        if now_ns < self.next_ns {
            return ControlFlow::Continue(());
        }
        self.next_ns = now_ns + TICK_NS;
        account.sweep(now_ns);
        let elapsed = Duration::from_nanos(now_ns - self.start_ns);
        self.progress.update(&Snapshot { elapsed, total: self.total, draining, tally: account.tally() })
    }
}
