//! Errors in words.

pub(crate) use roam_sdn::sentence::in_full as sentence;
