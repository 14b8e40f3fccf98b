//! The side that looks.

use std::collections::BTreeMap;

use super::connection::Connection;
use super::flows::{Numbers, Picture};
use super::{Asked, Config, hand};
use crate::model::Mac;
use crate::plane::{Counters, Found, PlaneError, Reader, State};

pub(super) struct Eye {
    config: Config,
    asked: Asked,
    connection: Option<Connection>,
}

impl Eye {
    pub(super) fn new(config: Config, asked: Asked, connection: Connection) -> Self {
        Self { config, asked, connection: Some(connection) }
    }

    fn look(&mut self) -> Result<(Picture, Numbers), PlaneError> {
        let alive = self.connection.take().and_then(|mut connection| connection.tend().is_ok().then_some(connection));
        let mut connection = match alive {
            Some(connection) => connection,
            None => Connection::open(&self.config.management)?,
        };
        let numbers = hand::numbers(&mut connection, &self.config.tunnel)?;
        let picture = Picture::of(connection.flows()?, &numbers);
        // One that failed is not kept.
        self.connection = Some(connection);
        Ok((picture, numbers))
    }
}

impl Reader for Eye {
    fn found(&mut self) -> Result<Found, PlaneError> {
        let (picture, numbers) = self.look()?;
        let entries = picture.entries(&self.asked.lock(), &numbers);
        let unprepared = picture.unprepared();
        let ends = picture.ends.unwrap_or_default();
        Ok(Found { state: State { ends, entries }, unprepared })
    }

    fn counters(&mut self) -> Result<BTreeMap<Mac, Counters>, PlaneError> {
        Ok(self.look()?.0.counters)
    }

    /// OpenFlow 1.3 tells of no changes; but a connection that ended means a switch that was restarted.
    fn changed(&mut self) -> bool {
        self.connection.take_if(|connection| connection.tend().is_err()).is_some()
    }
}
