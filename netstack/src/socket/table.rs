//! The socket table and its handles.

use alloc::{boxed::Box, vec::Vec};

use roam_abi::{Errno, limits::SOCKETS_MAX};

use super::Socket;

/// Handle bits that are the index; the rest is the generation, the topmost bit clear.
const INDEX_BITS: u32 = SOCKETS_MAX.ilog2();
const GENERATION_MAX: u32 = (i32::MAX as u32) >> INDEX_BITS;
const _: () = assert!(SOCKETS_MAX.is_power_of_two());

/// A socket's handle. Never negative as an `i32`; that of a closed socket is not mistaken for a later one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u32);

/// A socket's place in the table.
pub(crate) type Index = u32;

/// All sockets, of every kind and state.
#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Vec<Slot>,
    free: Vec<Index>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    socket: Option<Box<Socket>>,
}

impl Table {
    /// Puts a socket into the table; [`Errno::MFILE`] when there is no place.
    pub(crate) fn insert(&mut self, socket: Socket) -> Result<Index, Errno> {
        if self.free.is_empty() {
            if self.slots.len() >= SOCKETS_MAX {
                return Err(Errno::MFILE);
            }
            self.free.push(self.slots.len() as Index);
            self.slots.push(Slot { generation: 1, socket: None });
        }
        let index = self.free.pop().expect("one was pushed where there was none");
        self.slots[index as usize].socket = Some(Box::new(socket));
        Ok(index)
    }

    /// Takes a socket out; its handles become stale.
    pub(crate) fn remove(&mut self, index: Index) -> Option<Box<Socket>> {
        let socket = self.slots.get_mut(index as usize)?.socket.take()?;
        self.revoke(index);
        self.free.push(index);
        Some(socket)
    }

    /// Makes the handles of a socket stale, though it stays.
    pub(crate) fn revoke(&mut self, index: Index) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.generation = slot.generation % GENERATION_MAX + 1;
        }
    }

    pub(crate) fn get(&self, index: Index) -> Option<&Socket> {
        self.slots.get(index as usize)?.socket.as_deref()
    }

    pub(crate) fn get_mut(&mut self, index: Index) -> Option<&mut Socket> {
        self.slots.get_mut(index as usize)?.socket.as_deref_mut()
    }

    /// The handle of a socket.
    pub(crate) fn id(&self, index: Index) -> SocketId {
        let generation = self.slots.get(index as usize).map_or(0, |slot| slot.generation);
        SocketId(generation << INDEX_BITS | index)
    }

    /// The socket that a handle stands for; [`Errno::BADF`] where the guest has no such socket (any more).
    pub(crate) fn find(&self, id: SocketId) -> Result<Index, Errno> {
        let index = id.0 & (SOCKETS_MAX as u32 - 1);
        match self.get(index) {
            Some(socket) if self.id(index) == id && socket.is_guests() => Ok(index),
            _ => Err(Errno::BADF),
        }
    }

    /// Sockets in the table.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Places in the table, free ones included.
    pub(crate) fn places(&self) -> Index {
        self.slots.len() as Index
    }

    /// Whether [`Table::insert`] would fail.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= SOCKETS_MAX
    }
}
