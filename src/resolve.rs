//! Resolve: the MAC table.

use crate::ixp::{InfrastructureId, VlanTag, VliId};

/// A VLAN on an infrastructure, with the VLIs that are on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lan {
    /// The infrastructure.
    pub infrastructure: InfrastructureId,
    /// The VLAN's tag.
    pub vlan: VlanTag,
    /// Its VLIs, in rising order.
    pub vlis: Vec<VliId>,
}
