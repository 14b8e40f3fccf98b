//! Connections between the two hosts: in order, with a delay and a bandwidth; what is on its way when one breaks is lost.

use super::world::World;
use crate::protocol::{Message, wire};

/// What travels.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Message(Message),
    /// Pages and what they are.
    Pages(Vec<(usize, u64)>),
}

/// A connection. Its ends are the hosts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) open: [bool; 2],
    pub(super) broken: bool,
    /// When the last of what a host sent arrives.
    last_us: [u64; 2],
}

impl Connection {
    pub(super) fn new() -> Self {
        Self { open: [true; 2], broken: false, last_us: [0; 2] }
    }
}

impl World {
    /// Sends an item from a host. What is sent into a connection that is broken is lost, and nobody notices at once.
    pub(super) fn send(&mut self, connection: usize, host: usize, item: Item) {
        let item = match item {
            Item::Message(message) => match wire::decode(&wire::encode(&message)[wire::PREFIX_BYTES..]) {
                Ok(message) => Item::Message(message),
                Err(error) => return self.broken(format!("{} cannot travel: {error}", message.name())),
            },
            pages => pages,
        };
        let takes_us = match &item {
            Item::Message(_) => 1,
            Item::Pages(pages) => pages.len() as u64 * self.page_us,
        };
        let jitter_us = self.rng.within(0, self.delay_us / 4);
        let line = &mut self.connections[connection];
        let arrives_us = (self.now_us + self.delay_us + jitter_us).max(line.last_us[host]) + takes_us;
        line.last_us[host] = arrives_us;
        self.after(arrives_us - self.now_us, move |world| {
            let line = world.connections[connection];
            if line.open[1 - host] && !line.broken {
                world.arrived(1 - host, connection, item);
            }
        });
    }

    /// A host closes its end. The other hears of it after all that was sent.
    pub(super) fn close(&mut self, connection: usize, host: usize) {
        let line = &mut self.connections[connection];
        if !line.open[host] {
            return;
        }
        line.open[host] = false;
        let last_us = line.last_us[host].max(self.now_us + self.delay_us) + 1;
        self.after(last_us - self.now_us, move |world| {
            if !world.connections[connection].broken {
                world.lost(connection, 1 - host);
            }
        });
    }

    /// The link breaks: so do all connections. Each end notices in its own time.
    pub(super) fn break_link(&mut self) {
        self.link_up = false;
        for connection in 0..self.connections.len() {
            if self.connections[connection].broken {
                continue;
            }
            self.connections[connection].broken = true;
            for host in 0..2 {
                let notices_us = self.rng.one_of(&[10, 2_000, 200_000, 6_000_000]);
                let notices_us = self.rng.within(1, notices_us);
                self.after(notices_us, move |world| world.lost(connection, host));
            }
        }
    }

    /// An end notices that its connection is lost.
    fn lost(&mut self, connection: usize, host: usize) {
        if self.connections[connection].open[host] {
            self.connections[connection].open[host] = false;
            self.heard_lost(host, connection);
        }
    }
}
