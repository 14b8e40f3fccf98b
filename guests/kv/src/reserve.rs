//! A bound on what values that are still arriving take, over all connections.

use std::cell::Cell;
use std::rc::Rc;

/// Bytes that may be taken.
#[derive(Debug)]
pub struct Reserve {
    left_bytes: Rc<Cell<usize>>,
}

/// Bytes taken; dropping it gives them back.
#[derive(Debug)]
pub struct Reservation {
    bytes: usize,
    left_bytes: Rc<Cell<usize>>,
}

impl Reserve {
    /// A reserve of that size.
    pub fn new(bytes: usize) -> Self {
        Self { left_bytes: Rc::new(Cell::new(bytes)) }
    }

    /// Takes that much, if it is left.
    pub fn take(&self, bytes: usize) -> Option<Reservation> {
        self.left_bytes.set(self.left_bytes.get().checked_sub(bytes)?);
        Some(Reservation { bytes, left_bytes: self.left_bytes.clone() })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.left_bytes.set(self.left_bytes.get() + self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let reserve = Reserve::new(10);
        let taken = reserve.take(8).expect("it is all there");
        assert!(reserve.take(3).is_none());
        drop(taken);
        assert!(reserve.take(10).is_some());
    }
}
