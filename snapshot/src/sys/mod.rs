//! What the kernel tracks and copies of another process's memory.
//!
//! In reading order: [`userfault`] (writes are tracked), [`pagemap`] (which pages were written), [`remote`] (their
//! bytes), [`pidfd`] (how a descriptor of another process is had).

#[cfg(test)]
pub(crate) mod child;
pub mod pagemap;
pub mod pidfd;
pub mod remote;
pub mod userfault;
