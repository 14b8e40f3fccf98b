//! A plane in memory, that can be disturbed and can fail: for tests.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Counters, Found, Order, Plane, PlaneError, Planes, Reader, State};
use crate::model::Mac;

/// What a plane holds, seen from outside. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Trial {
    inner: Arc<Mutex<Inside>>,
}

#[derive(Default)]
pub(crate) struct Inside {
    pub(crate) state: State,
    /// Every order it was given.
    pub(crate) orders: Vec<Order>,
    /// It does nothing that it is told.
    pub(crate) fails: bool,
    /// It cannot be reached.
    pub(crate) away: bool,
    /// How often it was told to change.
    pub(crate) tries: usize,
    /// What is done while it is read, after what it holds is known.
    pub(crate) during_reading: Option<Box<dyn FnOnce() + Send>>,
}

impl Trial {
    pub(crate) fn planes(&self) -> Planes {
        (Box::new(self.clone()), Box::new(self.clone()))
    }

    pub(crate) fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inner.lock().unwrap()
    }

    fn check(&self) -> Result<(), PlaneError> {
        let refused = || PlaneError::Refused { doing: "do anything".into(), source: io::ErrorKind::Other.into() };
        let away = || PlaneError::Unreachable { at: "trial".into(), source: io::ErrorKind::TimedOut.into() };
        match &*self.inside() {
            Inside { away: true, .. } => Err(away()),
            Inside { fails: true, .. } => Err(refused()),
            _ => Ok(()),
        }
    }
}

impl Plane for Trial {
    fn kind(&self) -> &'static str {
        "trial"
    }

    fn prepare(&mut self) -> Result<(), PlaneError> {
        self.check()
    }

    fn apply(&mut self, orders: &[Order]) -> Result<(), PlaneError> {
        self.inside().tries += usize::from(!orders.is_empty());
        self.check()?;
        let mut inside = self.inside();
        for order in orders {
            inside.state.obey(order);
            inside.orders.push(order.clone());
        }
        Ok(())
    }
}

impl Reader for Trial {
    fn found(&mut self) -> Result<Found, PlaneError> {
        self.check()?;
        let state = self.inside().state.clone();
        let meanwhile = self.inside().during_reading.take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        Ok(Found { state, unprepared: Vec::new() })
    }

    fn counters(&mut self) -> Result<BTreeMap<Mac, Counters>, PlaneError> {
        Ok(BTreeMap::new())
    }

    fn changed(&mut self) -> bool {
        false
    }
}
