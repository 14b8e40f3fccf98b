//! The side that changes flows.

use std::collections::BTreeSet;

use super::connection::{Connection, Failed};
use super::control::Control;
use super::flows::{self, Numbers, Picture};
use super::wire::Change;
use super::{Asked, Config};
use crate::model::Mac;
use crate::plane::{Ends, Order, Plane, PlaneError};

pub(super) struct Hand {
    config: Config,
    asked: Asked,
    link: Option<Link>,
    /// A connection nothing was prepared on yet.
    fresh: Option<Connection>,
}

/// A connection on which the flows everything needs were made.
struct Link {
    connection: Connection,
    control: Control,
    numbers: Numbers,
    /// Addresses whose flows were made by this connection, and are as asked for unless somebody changed them.
    whole: BTreeSet<Mac>,
}

impl Hand {
    pub(super) fn new(config: Config, asked: Asked, connection: Connection) -> Self {
        Self { config, asked, link: None, fresh: Some(connection) }
    }

    /// The connection, a new one if the last is over. What a switch that was restarted has lost the audit finds.
    fn link(&mut self) -> Result<&mut Link, PlaneError> {
        if self.link.as_mut().is_some_and(|link| link.connection.tend().is_err()) {
            self.link = None;
        }
        if self.link.is_none() {
            let connection = match self.fresh.take() {
                Some(connection) => connection,
                None => Connection::open(&self.config.management)?,
            };
            self.link = Some(self.prepared(connection)?);
        }
        Ok(self.link.as_mut().expect("it was made above"))
    }

    /// Makes what everything needs, takes away what is foreign, and leaves alone what is right.
    fn prepared(&self, mut connection: Connection) -> Result<Link, PlaneError> {
        let numbers = numbers(&mut connection, &self.config.tunnel)?;
        let picture = Picture::of(connection.flows()?, &numbers);
        let foreign = picture.foreign.into_iter();
        let mut changes: Vec<_> = foreign
            .map(|flow| Change::DeleteRead { table: flow.table, priority: flow.priority, matching: flow.matching_read })
            .collect();
        if picture.ends.is_none() {
            changes.extend(flows::ends(&Ends::default(), &numbers));
        }
        changes.extend(flows::base(&numbers));
        connection.change(&changes).map_err(|failed| match failed {
            Failed::Lost(error) => error,
            Failed::Refused { said, .. } => PlaneError::Refused { doing: "make the basic flows".into(), source: said },
        })?;
        let control = Control::open(&self.config.management)?;
        Ok(Link { connection, control, numbers, whole: BTreeSet::new() })
    }

    fn make(&mut self, orders: &[Order]) -> Result<(), PlaneError> {
        let asked = self.asked.clone();
        let link = self.link()?;
        let (mut changes, mut of) = (Vec::new(), Vec::new());
        {
            let asked = asked.lock();
            for (index, order) in orders.iter().enumerate() {
                match order {
                    Order::Ends(ends) => changes.extend(flows::ends(ends, &link.numbers)),
                    Order::Set(entry) => {
                        // Told the same again: something of it was found wrong.
                        let before = asked.get(&entry.mac).filter(|before| *before != entry);
                        let before = before.filter(|before| link.whole.contains(&before.mac));
                        changes.extend(flows::set(entry, before, &link.numbers));
                    }
                    Order::Remove(mac) => changes.extend(flows::remove(*mac, &link.numbers)),
                }
                of.resize(changes.len(), index);
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        link.connection.change(&changes).map_err(|failed| match failed {
            Failed::Lost(error) => error,
            Failed::Refused { index, said } => {
                let order = of.get(index).and_then(|order| orders.get(*order));
                PlaneError::Refused { doing: order.map_or("change flows".into(), in_words), source: said }
            }
        })?;
        link.control.purge()
    }
}

impl Plane for Hand {
    fn kind(&self) -> &'static str {
        "ovs"
    }

    fn prepare(&mut self) -> Result<(), PlaneError> {
        let connection = self.link.take().map(|link| link.connection).or(self.fresh.take());
        let alive = connection.and_then(|mut connection| connection.tend().is_ok().then_some(connection));
        let connection = match alive {
            Some(connection) => connection,
            None => Connection::open(&self.config.management)?,
        };
        self.link = Some(self.prepared(connection)?);
        Ok(())
    }

    fn apply(&mut self, orders: &[Order]) -> Result<(), PlaneError> {
        let made = self.make(orders);
        if matches!(made, Err(PlaneError::Unreachable { .. } | PlaneError::Protocol { .. })) {
            self.link = None;
        }
        let mut asked = self.asked.lock();
        for order in orders {
            let mac = match order {
                Order::Ends(_) => continue,
                Order::Set(entry) => {
                    asked.insert(entry.mac, entry.clone());
                    entry.mac
                }
                Order::Remove(mac) => {
                    asked.remove(mac);
                    *mac
                }
            };
            let Some(link) = &mut self.link else { continue };
            // After an error it is not known how far it went.
            if made.is_ok() && matches!(order, Order::Set(_)) {
                link.whole.insert(mac);
            } else {
                link.whole.remove(&mac);
            }
        }
        made
    }
}

/// The numbers of the switch's ports.
pub(super) fn numbers(connection: &mut Connection, tunnel: &str) -> Result<Numbers, PlaneError> {
    Numbers::of(connection.ports()?, tunnel).ok_or_else(|| PlaneError::Device {
        device: tunnel.into(),
        how: format!(
            "the bridge has no such port: run `ovs-vsctl add-port BRIDGE {tunnel} -- set interface {tunnel} type=vxlan \
             options:remote_ip=flow options:key=VNI`"
        ),
    })
}

fn in_words(order: &Order) -> String {
    match order {
        Order::Ends(ends) => format!("set the {} ends of the tunnels", ends.all.len()),
        Order::Set(entry) => format!("set the flows of {}", entry.mac),
        Order::Remove(mac) => format!("remove the flows of {mac}"),
    }
}
