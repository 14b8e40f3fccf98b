//! A guest as hosts describe it to each other.

use roam_sdn::model::Generation;
use serde::{Deserialize, Serialize};

use crate::api::{GuestName, GuestSpec, NetworkView};
use crate::host::record::Record;

/// Travels in [`roam_snapshot::protocol::Offer::guest`], and stands in [`roam_snapshot::image::Meta::guest`], as JSON: hosts of different versions read each other's, and
/// refuse fields they do not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::host) struct GuestOffer {
    /// As it was deployed.
    spec: GuestSpec,
    /// Where it is in the network, and stays.
    network: NetworkView,
    /// The generation it has its address since.
    pub(super) generation: Option<Generation>,
    /// When it was deployed.
    created_ms: u64,
    /// Times it was started again.
    restarts: u64,
}

/// Why a description was not understood.
#[derive(Debug, thiserror::Error)]
#[error("the guest is described in a way this host does not understand")]
pub struct OfferError(#[from] serde_json::Error);

impl GuestOffer {
    pub(in crate::host) fn of(record: &Record) -> Self {
        Self {
            spec: record.spec.clone(),
            network: record.network.clone(),
            generation: record.generation,
            created_ms: record.created_ms,
            restarts: record.restarts,
        }
    }

    pub(super) fn name(&self) -> &GuestName {
        &self.spec.name
    }

    pub(in crate::host) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a description is plain data")
    }

    pub(in crate::host) fn decode(bytes: &[u8]) -> Result<Self, OfferError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// What to ask a host's addresses for so that the guest has the same place there.
    pub(in crate::host) fn placed_spec(&self) -> GuestSpec {
        GuestSpec {
            ip: self.network.ip,
            ip6: self.network.ip6,
            mac: Some(self.network.mac),
            gateway: self.network.gateway,
            gateway6: self.network.gateway6,
            mtu: Some(self.network.mtu),
            ..self.spec.clone()
        }
    }

    /// Makes a record, which has its place at this host, that of the guest.
    pub(super) fn fill(&self, record: Record) -> Record {
        Record { spec: self.spec.clone(), created_ms: self.created_ms, restarts: self.restarts, ..record }
    }
}
