//! The controller at work, in the gateway's namespace.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use roam_sdn::controller::{Config, Move};
use roam_sdn::model::{Generation, Kind};
use roam_sdn::plane::{Ends, Entry, Hop, Order};
use roam_sdn::store::RedbStore;
use roam_sdn::{Controller, Name};

use super::rig::{GATEWAY_END, Rig};
use super::verdict::Switch;
use crate::scenarios::Run;

/// Nobody is to be called lost meanwhile.
const LOST_AFTER: Duration = Duration::from_secs(24 * 3600);
/// How long the load runs before the first switch, and after the last one.
const MARGIN: Duration = Duration::from_millis(200);
/// Who owns the address.
const HOSTS: [&str; 2] = ["host-0", "host-1"];

/// What was switched.
pub(super) struct Switched {
    pub(super) switches: Vec<Switch>,
    /// Switches in which the plane did not follow at once.
    pub(super) troubles: u64,
}

/// How long the plane alone takes to lead an address elsewhere (ns): one order, nothing around it.
pub(super) fn applies(rig: &Rig, count: usize) -> Result<Vec<u64>> {
    let (mut plane, _reader) = rig.gateway.planes().context("no data plane")?;
    plane.prepare().context("preparing the data plane")?;
    let all = BTreeSet::from([rig.end(0), rig.end(1)]);
    plane.apply(&[Order::Ends(Ends { all, unknown: BTreeSet::new() })])?;
    let address = rig.address();
    let order = |host: u8| {
        let hop = Hop::Tunnel(rig.end(host));
        [Order::Set(Entry { mac: address.mac, ip: address.ip, ip6: address.ip6, hop, relay: false })]
    };
    let orders = [order(0), order(1)];
    plane.apply(&orders[1])?;
    let mut times_ns = Vec::with_capacity(count);
    for number in 0..count {
        let began = Instant::now();
        plane.apply(&orders[number % 2])?;
        times_ns.push(began.elapsed().as_nanos() as u64);
    }
    Ok(times_ns)
}

/// Claims the address for host 0, lets the load begin, and switches to and fro.
pub(super) fn run(rig: &Rig, run: &Run, round: u32, epoch: Instant, begin: &AtomicBool) -> Result<Switched> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().context("no tokio runtime")?;
    let store = RedbStore::open(&rig.scratch.path().join(format!("sdn-{round}.redb")))?;
    let config =
        Config { node: "gateway".parse()?, vtep: Some(GATEWAY_END.into()), lost_after: LOST_AFTER, own: Vec::new() };
    runtime.block_on(async {
        let planes = rig.gateway.planes().context("no data plane")?;
        let controller = Controller::open(config, Box::new(store), Some(planes), None).await?;
        let mut owner = Owner::claim(rig, &controller).await?;
        // Each host once, so that the tunnels' ends know each other.
        for _ in 0..2 {
            rig.wait_for(owner.host)?;
            owner.switch(epoch).await?;
        }
        rig.wait_for(owner.host)?;
        begin.store(true, Ordering::Release);
        tokio::time::sleep(MARGIN).await;
        owner.troubles = 0;
        let mut switches = Vec::new();
        let pause = Duration::from_millis(run.params.count("pause_ms") as u64);
        for _ in 0..run.params.count("switches") {
            switches.push(owner.switch(epoch).await?);
            tokio::time::sleep(pause).await;
        }
        tokio::time::sleep(MARGIN).await;
        Ok(Switched { switches, troubles: owner.troubles })
    })
}

/// The address, and whose it is.
struct Owner<'a> {
    controller: &'a Controller,
    names: [Name; 2],
    mac: roam_sdn::Mac,
    host: u8,
    generation: Generation,
    troubles: u64,
}

impl<'a> Owner<'a> {
    async fn claim(rig: &Rig, controller: &'a Controller) -> Result<Self> {
        let names: [Name; 2] = [HOSTS[0].parse()?, HOSTS[1].parse()?];
        for (host, name) in names.iter().enumerate() {
            controller.join(name.clone(), Kind::Host, rig.end(host as u8), None).await?;
        }
        let address = rig.address();
        let mac = address.mac;
        let accepted = controller.claim(address, names[0].clone(), None).await?;
        let generation = accepted.route.context("a claim has a route")?.placement.generation;
        Ok(Self { controller, names, mac, host: 0, generation, troubles: 0 })
    }

    /// To the other host.
    async fn switch(&mut self, epoch: Instant) -> Result<Switch> {
        let (from, to) = (self.host, 1 - self.host);
        let called = Instant::now();
        let name = self.names[usize::from(to)].clone();
        let accepted = self.controller.move_to(self.mac, Move::new(name, self.generation)).await?;
        let answered = Instant::now();
        let ns = |at: Instant| at.duration_since(epoch).as_nanos() as u64;
        self.troubles += u64::from(accepted.trouble.is_some());
        self.generation = accepted.route.context("a move has a route")?.placement.generation;
        self.host = to;
        Ok(Switch {
            from,
            to,
            called_ns: ns(called),
            answered_ns: ns(answered),
            plane_us: accepted.plane_us,
            durable_us: accepted.durable_us,
        })
    }
}
