//! Resolve: from VLAN and addresses to a pair of VLIs, by the table and the policy of a plan.
//!
//! A [`Plan`] is built whole, never changed, and replaced whole at an epoch change; a lookup is
//! one probe of a hash table by `tag << 48 | mac`. Its value is a row and a column, and their sum is
//! the pair's cell in the ledger: every LAN owns a square of cells.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use foldhash::fast::FixedState;
use serde::Serialize;

use crate::ixp::{InfrastructureId, IpPrefix, Mac, MacRecord, VlanTag, VliId};
use crate::loss::Loss;
use crate::table::{NO_KEY, Place, Table};

/// VLIs of one LAN at the most: columns are 16 bits wide.
pub const VLIS_PER_LAN_MAX: usize = 20_000;

/// Cells (pairs of VLIs) of a table at the most: 4 bytes a cell and worker, so 1.6 GB.
pub const CELLS_MAX: u64 = 400_000_000;

/// LANs of a table at the most.
pub const LANS_MAX: usize = 60_000;

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

/// Where a MAC stands in the square of its LAN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Port {
    /// VLAN and MAC.
    key: u64,
    /// First cell of the LAN plus rank x size: the row as sender.
    row: u32,
    /// Rank: the column as receiver.
    column: u16,
    /// The LAN, or [`CONTESTED`].
    lan: u16,
}

/// Stands for a LAN where (VLAN, MAC) is in the table more than once.
const CONTESTED: u16 = u16::MAX;

impl Place for Port {
    const EMPTY: Port = Port { key: NO_KEY, row: 0, column: 0, lan: 0 };

    #[inline]
    fn key(&self) -> u64 {
        self.key
    }

    fn set_key(&mut self, key: u64) {
        self.key = key;
    }
}

/// A presence of a MAC in the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Membership {
    /// The infrastructure.
    pub infrastructure: InfrastructureId,
    /// The VLAN's tag.
    pub vlan: VlanTag,
    /// The VLAN interface.
    pub vli: VliId,
}

/// The memberships of one MAC, as a range of the list.
#[derive(Clone, Copy, Debug)]
struct MacPlace {
    mac: u64,
    first: u32,
    end: u32,
}

impl Place for MacPlace {
    const EMPTY: MacPlace = MacPlace { mac: NO_KEY, first: 0, end: 0 };

    #[inline]
    fn key(&self) -> u64 {
        self.mac
    }

    fn set_key(&mut self, key: u64) {
        self.mac = key;
    }
}

/// Something in the table that says two things at once.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Conflict {
    /// A MAC belongs to two VLIs of one LAN: the lowest VLI is used.
    TwoVlis {
        /// The infrastructure of the LAN.
        infrastructure: InfrastructureId,
        /// The VLAN's tag.
        vlan: VlanTag,
        /// The address.
        mac: Mac,
        /// The VLI that is used.
        used: VliId,
        /// The VLI that is not.
        ignored: VliId,
    },
    /// A MAC is on one tag of several infrastructures: the other end of a sample decides, else
    /// the lowest infrastructure on which both ends are known.
    TwoInfrastructures {
        /// The VLAN's tag.
        vlan: VlanTag,
        /// The address.
        mac: Mac,
        /// The infrastructures, in rising order.
        infrastructures: Vec<InfrastructureId>,
    },
    /// Two infrastructures use one tag: their traffic is summed in the tag's aggregate file, which
    /// is the only one that the portal reads.
    SharedTag {
        /// The VLAN's tag.
        vlan: VlanTag,
        /// The infrastructures, in rising order.
        infrastructures: Vec<InfrastructureId>,
    },
    /// A VLI is on two LANs: its files carry the sum.
    TwoLans {
        /// The VLI.
        vli: VliId,
        /// The tags, in rising order.
        vlans: Vec<VlanTag>,
    },
}

fn list<T: fmt::Display>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Conflict::TwoVlis { infrastructure, vlan, mac, used, ignored } => write!(
                f,
                "MAC {mac} on VLAN {vlan} of infrastructure {} belongs to VLI {} and to VLI {}: \
                 counted for VLI {}",
                infrastructure.0, used.0, ignored.0, used.0
            ),
            Conflict::TwoInfrastructures { vlan, mac, infrastructures } => write!(
                f,
                "MAC {mac} is on VLAN {vlan} of infrastructures {}: counted where the other end \
                 of a sample is known, the lowest of several",
                list(infrastructures.iter().map(|id| id.0))
            ),
            Conflict::SharedTag { vlan, infrastructures } => write!(
                f,
                "infrastructures {} share VLAN tag {vlan}: the tag's aggregate is their sum",
                list(infrastructures.iter().map(|id| id.0))
            ),
            Conflict::TwoLans { vli, vlans } => {
                write!(
                    f,
                    "VLI {} is on VLANs {}: its files carry the sum",
                    vli.0,
                    list(vlans.iter())
                )
            }
        }
    }
}

/// A table that is too large to be one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TableError {
    /// Too many VLIs on a LAN.
    #[error(
        "VLAN {vlan} of infrastructure {} has {count} VLIs: expected at most {VLIS_PER_LAN_MAX}",
        infrastructure.0
    )]
    TooManyVlis {
        /// The infrastructure of the LAN.
        infrastructure: InfrastructureId,
        /// The VLAN's tag.
        vlan: VlanTag,
        /// How many.
        count: usize,
    },
    /// Too many pairs in all.
    #[error("the table makes {0} pairs of VLIs: expected at most {CELLS_MAX}")]
    TooManyCells(u64),
    /// Too many LANs.
    #[error("the table has {0} VLANs: expected at most {LANS_MAX}")]
    TooManyLans(usize),
}

/// Which MAC is which VLI, on every VLAN of the exchange.
#[derive(Clone, Debug)]
pub struct MacTable {
    ports: Table<Port>,
    contested: HashMap<u64, Vec<Port>, FixedState>,
    /// Where each MAC is known, for what is off the path.
    memberships: Table<MacPlace>,
    membership_list: Arc<[Membership]>,
    /// One bit a tag; bit 0 is the untagged LAN.
    tags: [u64; 64],
    lans: Arc<[Lan]>,
    first_cells: Vec<u32>,
    cell_count: u32,
}

impl Default for MacTable {
    fn default() -> MacTable {
        MacTable {
            ports: Table::default(),
            contested: HashMap::default(),
            memberships: Table::default(),
            membership_list: Arc::new([]),
            tags: [0; 64],
            lans: Arc::new([]),
            first_cells: Vec::new(),
            cell_count: 0,
        }
    }
}

#[inline]
fn key(vlan: VlanTag, mac: Mac) -> u64 {
    u64::from(vlan.as_u16()) << 48 | mac.as_u64()
}

impl MacTable {
    /// Builds a table, and says what in it is contradictory.
    ///
    /// The result depends on the set of records alone, never on their order.
    pub fn build(records: &[MacRecord]) -> Result<(MacTable, Vec<Conflict>), TableError> {
        let mut conflicts = Vec::new();
        // (infrastructure, vlan) -> mac -> vli
        let mut macs_of: BTreeMap<(InfrastructureId, VlanTag), BTreeMap<Mac, VliId>> =
            BTreeMap::new();
        let mut sorted = records.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        for record in &sorted {
            let macs = macs_of.entry((record.infrastructure, record.vlan)).or_default();
            let used = *macs.entry(record.mac).or_insert(record.vli);
            if used != record.vli {
                conflicts.push(Conflict::TwoVlis {
                    infrastructure: record.infrastructure,
                    vlan: record.vlan,
                    mac: record.mac,
                    used,
                    ignored: record.vli,
                });
            }
        }
        if macs_of.len() > LANS_MAX {
            return Err(TableError::TooManyLans(macs_of.len()));
        }

        let mut table = MacTable::default();
        let mut lans = Vec::with_capacity(macs_of.len());
        let mut cells = 0u64;
        let mut infrastructures_of: BTreeMap<VlanTag, Vec<InfrastructureId>> = BTreeMap::new();
        let mut vlans_of: BTreeMap<VliId, Vec<VlanTag>> = BTreeMap::new();
        for (&(infrastructure, vlan), macs) in &macs_of {
            let mut vlis: Vec<VliId> = macs.values().copied().collect();
            vlis.sort_unstable();
            vlis.dedup();
            let size = vlis.len();
            if size > VLIS_PER_LAN_MAX {
                return Err(TableError::TooManyVlis { infrastructure, vlan, count: size });
            }
            let first_cell = cells;
            cells += size as u64 * size as u64;
            if cells > CELLS_MAX {
                return Err(TableError::TooManyCells(cells));
            }
            #[expect(clippy::cast_possible_truncation, reason = "below CELLS_MAX")]
            table.first_cells.push(first_cell as u32);
            for (&mac, vli) in macs {
                // The VLI is in the list that was made from the same map.
                let rank = vlis.binary_search(vli).unwrap_or_default();
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "CELLS_MAX, VLIS_PER_LAN_MAX and LANS_MAX are below the types' limits"
                )]
                let port = Port {
                    key: key(vlan, mac),
                    row: (first_cell + rank as u64 * size as u64) as u32,
                    column: rank as u16,
                    lan: lans.len() as u16,
                };
                if let Some(&other) = table.ports.get(port.key) {
                    table.contested.entry(port.key).or_insert_with(|| vec![other]).push(port);
                    table.ports.entry(port.key).lan = CONTESTED;
                } else {
                    *table.ports.entry(port.key) = port;
                }
            }
            table.tags[usize::from(vlan.as_u16() >> 6)] |= 1 << (vlan.as_u16() & 63);
            infrastructures_of.entry(vlan).or_default().push(infrastructure);
            for &vli in &vlis {
                vlans_of.entry(vli).or_default().push(vlan);
            }
            lans.push(Lan { infrastructure, vlan, vlis });
        }
        let mut memberships: Vec<(Mac, Membership)> = macs_of
            .iter()
            .flat_map(|(&(infrastructure, vlan), macs)| {
                macs.iter().map(move |(&mac, &vli)| (mac, Membership { infrastructure, vlan, vli }))
            })
            .collect();
        memberships.sort_unstable();
        for (number, (mac, _)) in (0u32..).zip(&memberships) {
            let place = table.memberships.entry(mac.as_u64());
            if place.end == 0 {
                place.first = number;
            }
            place.end = number + 1;
        }
        table.membership_list = memberships.into_iter().map(|(_, membership)| membership).collect();
        for (&contested, ports) in &table.contested {
            let vlan = VlanTag::new((contested >> 48) as u32);
            let [_, _, octets @ ..] = contested.to_be_bytes();
            conflicts.push(Conflict::TwoInfrastructures {
                vlan,
                mac: Mac::from_octets(octets),
                infrastructures: ports
                    .iter()
                    .map(|port| lans[usize::from(port.lan)].infrastructure)
                    .collect(),
            });
        }
        for (vlan, infrastructures) in infrastructures_of {
            if infrastructures.len() > 1 {
                conflicts.push(Conflict::SharedTag { vlan, infrastructures });
            }
        }
        for (vli, vlans) in vlans_of {
            if vlans.len() > 1 {
                conflicts.push(Conflict::TwoLans { vli, vlans });
            }
        }
        conflicts.sort_unstable();
        table.lans = lans.into();
        #[expect(clippy::cast_possible_truncation, reason = "below CELLS_MAX")]
        {
            table.cell_count = cells as u32;
        }
        Ok((table, conflicts))
    }

    /// The VLANs, sorted by infrastructure and tag.
    pub fn lans(&self) -> &Arc<[Lan]> {
        &self.lans
    }

    /// Number of (VLAN, MAC) entries.
    pub fn mac_count(&self) -> usize {
        self.ports.len()
    }

    /// Number of pair cells: the size of a ledger's index.
    pub fn cell_count(&self) -> u32 {
        self.cell_count
    }

    #[inline(always)]
    fn knows(&self, vlan: VlanTag) -> bool {
        self.tags[usize::from(vlan.as_u16() >> 6)] >> (vlan.as_u16() & 63) & 1 == 1
    }

    /// The VLAN of a sample: the outermost tag that the table knows, else the VLAN before, else
    /// behind the switch (extended switch record) that it knows, else, for a frame that names no
    /// VLAN at all, the LAN without a tag.
    ///
    /// Where the table knows none of them the error carries the VLAN that was meant: the
    /// innermost tag, else the switch's.
    #[inline]
    pub fn vlan(
        &self,
        tags: impl DoubleEndedIterator<Item = VlanTag> + Clone,
        switch: [VlanTag; 2],
    ) -> Result<VlanTag, VlanTag> {
        // Nearly always the outermost tag is known; without tags, the VLAN before the switch.
        let first = tags.clone().next().unwrap_or(switch[0]);
        if first.is_some() && self.knows(first) { Ok(first) } else { self.any_vlan(tags, switch) }
    }

    #[cold]
    fn any_vlan(
        &self,
        tags: impl DoubleEndedIterator<Item = VlanTag> + Clone,
        switch: [VlanTag; 2],
    ) -> Result<VlanTag, VlanTag> {
        for vlan in tags.clone() {
            if self.knows(vlan) {
                return Ok(vlan);
            }
        }
        for vlan in switch {
            if vlan.is_some() && self.knows(vlan) {
                return Ok(vlan);
            }
        }
        let meant = tags.rev().chain(switch).find(|vlan| vlan.is_some());
        match meant {
            Some(vlan) => Err(vlan),
            None if self.knows(VlanTag::NONE) => Ok(VlanTag::NONE),
            None => Err(VlanTag::NONE),
        }
    }

    /// The VLAN of a sample by the policy of its agent: as [`MacTable::vlan`], but each VLAN is
    /// what `vlan_alias` makes of it at this port, a frame that names none is on
    /// `untagged_vlan`, and only what is on the agent's `infrastructure` is known.
    pub fn vlan_by(
        &self,
        policy: &AgentPolicy,
        if_index: Option<u32>,
        tags: impl DoubleEndedIterator<Item = VlanTag> + Clone,
        switch: [VlanTag; 2],
    ) -> Result<VlanTag, VlanTag> {
        let knows = |vlan: VlanTag| match policy.infrastructure {
            None => self.knows(vlan),
            Some(id) => {
                let by = |lan: &Lan| (lan.infrastructure, lan.vlan).cmp(&(id, vlan));
                self.lans.binary_search_by(by).is_ok()
            }
        };
        let alias = |vlan| policy.vlan_alias(if_index, vlan);
        let named = tags.clone().chain(switch).filter(|vlan| vlan.is_some());
        if let Some(vlan) = named.map(alias).find(|&vlan| knows(vlan)) {
            return Ok(vlan);
        }
        let meant = tags.rev().chain(switch).find(|vlan| vlan.is_some());
        let vlan = meant.map(alias).or(policy.untagged_vlan).unwrap_or(VlanTag::NONE);
        // A VLAN that is named was asked for above.
        if meant.is_none() && knows(vlan) { Ok(vlan) } else { Err(vlan) }
    }

    /// The one VLAN on which both addresses are known, if there is exactly one; for a frame that
    /// names none.
    pub fn common_vlan(
        &self,
        infrastructure: Option<InfrastructureId>,
        source: Mac,
        destination: Mac,
    ) -> Option<VlanTag> {
        let lans = |mac| {
            let all = self.memberships(mac).iter();
            all.filter(move |m| infrastructure.is_none_or(|id| id == m.infrastructure))
                .map(|m| (m.infrastructure, m.vlan))
        };
        let mut found = None;
        for lan in lans(source).filter(|lan| lans(destination).any(|other| other == *lan)) {
            if found.is_some_and(|vlan| vlan != lan.1) {
                return None;
            }
            found = Some(lan.1);
        }
        found
    }

    /// Where a MAC is known, sorted by infrastructure and tag.
    pub fn memberships(&self, mac: Mac) -> &[Membership] {
        match self.memberships.get(mac.as_u64()) {
            Some(place) => &self.membership_list[place.first as usize..place.end as usize],
            None => &[],
        }
    }

    /// The ledger cell of a pair, of one infrastructure only if there is one.
    pub fn pair_on(
        &self,
        infrastructure: Option<InfrastructureId>,
        vlan: VlanTag,
        source: Mac,
        destination: Mac,
    ) -> Result<u32, Loss> {
        let Some(infrastructure) = infrastructure else {
            return self.pair(vlan, source, destination);
        };
        if destination.is_group() {
            return Err(group(destination));
        }
        let port = |mac: Mac| {
            let found = self.ports.get(key(vlan, mac))?;
            let several = self.contested.get(&found.key).map(Vec::as_slice);
            let mut ports = several.unwrap_or(std::slice::from_ref(found)).iter();
            ports.find(|port| self.lans[usize::from(port.lan)].infrastructure == infrastructure)
        };
        let sender = port(source).ok_or(Loss::UnknownSource)?;
        let receiver = port(destination).ok_or(Loss::UnknownDestination)?;
        Self::cell(*sender, *receiver)
    }

    /// The ledger cell of a pair.
    #[inline]
    pub fn pair(&self, vlan: VlanTag, source: Mac, destination: Mac) -> Result<u32, Loss> {
        if destination.is_group() {
            return Err(group(destination));
        }
        let sender = *self.ports.get(key(vlan, source)).ok_or(Loss::UnknownSource)?;
        let receiver = *self.ports.get(key(vlan, destination)).ok_or(Loss::UnknownDestination)?;
        if sender.lan == receiver.lan && sender.lan != CONTESTED {
            Self::cell(sender, receiver)
        } else {
            self.contested_pair(sender, receiver)
        }
    }

    /// The ledger cell of a pair as [`MacTable::pair`], where the table knows the VLAN and both
    /// ends, and has each once.
    #[inline(always)]
    pub fn usual_pair(&self, vlan: VlanTag, source: Mac, destination: Mac) -> Option<u32> {
        if !vlan.is_some() || !self.knows(vlan) {
            return None;
        }
        let sender = self.ports.get(key(vlan, source))?;
        let receiver = self.ports.get(key(vlan, destination))?;
        let usual = sender.lan == receiver.lan
            && sender.lan != CONTESTED
            && sender.row != receiver.row
            && !destination.is_group();
        usual.then(|| sender.row + u32::from(receiver.column))
    }

    /// The cell of two ports of one LAN.
    #[inline(always)]
    fn cell(sender: Port, receiver: Port) -> Result<u32, Loss> {
        if sender.row == receiver.row {
            return Err(Loss::SameVli);
        }
        Ok(sender.row + u32::from(receiver.column))
    }

    #[cold]
    fn contested_pair(&self, sender: Port, receiver: Port) -> Result<u32, Loss> {
        let sender_only = [sender];
        let receiver_only = [receiver];
        let senders = match self.contested.get(&sender.key) {
            Some(ports) => ports.as_slice(),
            None => &sender_only,
        };
        let receivers = match self.contested.get(&receiver.key) {
            Some(ports) => ports.as_slice(),
            None => &receiver_only,
        };
        // Both lists rise by infrastructure.
        for &sender in senders {
            for &receiver in receivers {
                if sender.lan == receiver.lan {
                    return Self::cell(sender, receiver);
                }
            }
        }
        Err(Loss::AcrossInfrastructures)
    }

    fn lan_of(&self, cell: u32) -> usize {
        // The first LAN's first cell is 0, so that at least one is not above `cell`; LANs are
        // never empty, so that first cells rise strictly.
        self.first_cells.partition_point(|&first| first <= cell) - 1
    }

    /// The infrastructure and the VLAN that a ledger cell belongs to.
    pub fn home_of(&self, cell: u32) -> (InfrastructureId, VlanTag) {
        let lan = &self.lans[self.lan_of(cell)];
        (lan.infrastructure, lan.vlan)
    }

    /// The sender and the receiver of a ledger cell.
    pub fn vlis_of(&self, cell: u32) -> (VliId, VliId) {
        let lan = self.lan_of(cell);
        let vlis = &self.lans[lan].vlis;
        let offset = (cell - self.first_cells[lan]) as usize;
        (vlis[offset / vlis.len()], vlis[offset % vlis.len()])
    }
}

/// The reason why a frame to a group address counts for nobody.
#[cold]
fn group(destination: Mac) -> Loss {
    if destination == Mac::BROADCAST { Loss::Broadcast } else { Loss::Multicast }
}

/// Which samples of an agent are counted, by where they were taken.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Direction {
    /// Samples taken at ingress, and those of which it cannot be told (the default).
    #[default]
    Ingress,
    /// Samples taken at egress, and those of which it cannot be told.
    Egress,
    /// All.
    Both,
    /// None: what this agent samples, another one samples too.
    None,
}

/// The text is not a direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected ingress, egress, both or none")]
pub struct DirectionError;

impl FromStr for Direction {
    type Err = DirectionError;

    fn from_str(text: &str) -> Result<Direction, DirectionError> {
        match text {
            "ingress" => Ok(Direction::Ingress),
            "egress" => Ok(Direction::Egress),
            "both" => Ok(Direction::Both),
            "none" => Ok(Direction::None),
            _ => Err(DirectionError),
        }
    }
}

impl Direction {
    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
            Direction::Both => "both",
            Direction::None => "none",
        }
    }
}

/// A VLAN that has another number at a port, or at all ports of an agent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct VlanAlias {
    /// The port; none: all that have no alias of their own for the VLAN.
    pub if_index: Option<u32>,
    /// The VLAN of the frame, or of the extended switch record.
    pub from: VlanTag,
    /// The VLAN of the table.
    pub to: VlanTag,
}

/// The text is not an alias.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected FROM=TO or IFINDEX:FROM=TO, VLANs from 1 to 4094")]
pub struct VlanAliasError;

impl FromStr for VlanAlias {
    type Err = VlanAliasError;

    fn from_str(text: &str) -> Result<VlanAlias, VlanAliasError> {
        let vlan = |text: &str| match text.parse().map(VlanTag::new) {
            Ok(vlan) if vlan.is_some() => Ok(vlan),
            _ => Err(VlanAliasError),
        };
        let (from, to) = text.split_once('=').ok_or(VlanAliasError)?;
        let (if_index, from) = match from.split_once(':') {
            Some((if_index, from)) => (Some(if_index.parse().map_err(|_| VlanAliasError)?), from),
            None => (None, from),
        };
        Ok(VlanAlias { if_index, from: vlan(from)?, to: vlan(to)? })
    }
}

impl fmt::Display for VlanAlias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.if_index {
            Some(if_index) => write!(f, "{if_index}:{}={}", self.from, self.to),
            None => write!(f, "{}={}", self.from, self.to),
        }
    }
}

/// The UDP port of VXLAN (RFC 7348, section 8).
pub const VXLAN_PORT: u16 = 4789;

/// Which frames are taken for what they wrap.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Decapsulate {
    /// The UDP port of VXLAN; none: not those.
    pub vxlan_port: Option<u16>,
    /// Ethernet over MPLS.
    pub mpls: bool,
    /// IEEE 802.1ah.
    pub pbb: bool,
}

impl Decapsulate {
    /// Adds what a word stands for: `vxlan`, `vxlan:PORT`, `mpls` or `pbb`; says whether it is
    /// one of them.
    pub fn add(&mut self, word: &str) -> bool {
        match word {
            "vxlan" => self.vxlan_port = Some(VXLAN_PORT),
            "mpls" => self.mpls = true,
            "pbb" => self.pbb = true,
            _ => match word.strip_prefix("vxlan:").and_then(|port| port.parse().ok()) {
                Some(port) if port > 0 => self.vxlan_port = Some(port),
                _ => return false,
            },
        }
        true
    }

    /// The words in the configuration.
    pub fn words(&self) -> Vec<String> {
        let vxlan = self.vxlan_port.map(|port| match port {
            VXLAN_PORT => "vxlan".to_owned(),
            port => format!("vxlan:{port}"),
        });
        let mpls = self.mpls.then(|| "mpls".to_owned());
        let pbb = self.pbb.then(|| "pbb".to_owned());
        vxlan.into_iter().chain(mpls).chain(pbb).collect()
    }
}

/// What is done about links between switches, whose samples count packets a second time.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum CorePorts {
    /// They are looked for and reported, and their samples count (the default, and what IXP
    /// Manager's own collector does).
    #[default]
    Report,
    /// They are looked for and reported, and their samples are left out.
    Auto,
    /// They are not looked for.
    Off,
    /// The samples of these ports are left out: ifIndexes in rising order.
    List(Arc<[u32]>),
}

/// What a sample stands for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ScalingBy {
    /// Its sampling rate (the default).
    #[default]
    Rate,
    /// The growth of the data source's sample pool over the samples received, where the pool
    /// proves itself.
    Pool,
}

/// The text is no scaling.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected rate or pool")]
pub struct ScalingError;

impl FromStr for ScalingBy {
    type Err = ScalingError;

    fn from_str(text: &str) -> Result<ScalingBy, ScalingError> {
        match text {
            "rate" => Ok(ScalingBy::Rate),
            "pool" => Ok(ScalingBy::Pool),
            _ => Err(ScalingError),
        }
    }
}

impl ScalingBy {
    /// The name in the settings.
    pub const fn name(self) -> &'static str {
        match self {
            ScalingBy::Rate => "rate",
            ScalingBy::Pool => "pool",
        }
    }
}

/// What the configuration says of one agent.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AgentPolicy {
    /// Which samples are counted.
    pub direction: Direction,
    /// Used in place of the samples' own rate.
    pub sampling_rate: Option<u32>,
    /// What the rate is corrected by; none: as for all agents.
    pub scaling: Option<ScalingBy>,
    /// VLANs that have another number at the agent's ports; one for each port and VLAN.
    pub vlan_aliases: Vec<VlanAlias>,
    /// The VLAN of frames that name none.
    pub untagged_vlan: Option<VlanTag>,
    /// The only infrastructure on which its samples are.
    pub infrastructure: Option<InfrastructureId>,
    /// Frames that are taken for what they wrap.
    pub decapsulate: Decapsulate,
    /// Links between switches.
    pub core_ports: CorePorts,
}

impl AgentPolicy {
    /// Whether VLAN and pair of a sample are found by the table alone.
    #[inline]
    pub fn is_by_table(&self) -> bool {
        self.vlan_aliases.is_empty()
            && self.untagged_vlan.is_none()
            && self.infrastructure.is_none()
    }

    /// What a VLAN stands for at a port: an alias of the port goes before one of all ports.
    fn vlan_alias(&self, if_index: Option<u32>, vlan: VlanTag) -> VlanTag {
        let of = |port: Option<u32>| {
            self.vlan_aliases.iter().find(|alias| alias.from == vlan && alias.if_index == port)
        };
        let alias = if_index.and_then(|if_index| of(Some(if_index))).or_else(|| of(None));
        alias.map_or(vlan, |alias| alias.to)
    }
}

/// What the configuration says of senders.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Policy {
    /// Agents with settings of their own, by agent address.
    pub agents: BTreeMap<IpAddr, AgentPolicy>,
    /// What holds for all others.
    pub other_agents: AgentPolicy,
    /// Source addresses that may send; none listed: all.
    pub sources_allowed: Vec<IpPrefix>,
}

impl Policy {
    /// What holds for an agent.
    pub fn agent(&self, address: IpAddr) -> &AgentPolicy {
        self.agents.get(&address).unwrap_or(&self.other_agents)
    }

    /// Whether datagrams from `source` are taken.
    #[inline]
    pub fn allows(&self, source: IpAddr) -> bool {
        self.sources_allowed.is_empty()
            || self.sources_allowed.iter().any(|prefix| prefix.contains(source))
    }
}

/// All that a worker resolves by, replaced whole.
#[derive(Clone, Default, Debug)]
pub struct Plan {
    /// The MAC table.
    pub table: MacTable,
    /// The policy.
    pub policy: Policy,
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of the tests' own")]
mod tests {
    use super::*;

    fn record(infrastructure: u32, vlan: u32, mac: u8, vli: u32) -> MacRecord {
        MacRecord {
            infrastructure: InfrastructureId(infrastructure),
            vlan: VlanTag::new(vlan),
            mac: self::mac(mac),
            vli: VliId(vli),
        }
    }

    fn mac(last: u8) -> Mac {
        Mac::from_octets([2, 0, 0, 0, 0, last])
    }

    fn vlis(table: &MacTable, vlan: u32, source: u8, destination: u8) -> Result<(u32, u32), Loss> {
        let cell = table.pair(VlanTag::new(vlan), mac(source), mac(destination))?;
        let (source, destination) = table.vlis_of(cell);
        Ok((source.0, destination.0))
    }

    #[test]
    fn every_pair_has_a_cell_of_its_own() {
        let records: Vec<_> = (1..=2)
            .flat_map(|vlan| {
                (1..=7).map(move |n| record(1, vlan * 10, n, vlan * 100 + u32::from(n) / 2))
            })
            .collect();
        let (table, conflicts) = MacTable::build(&records).unwrap();
        assert_eq!(conflicts, []);
        let mut seen = BTreeMap::new();
        for vlan in [10, 20] {
            for source in 1..=7u8 {
                for destination in 1..=7u8 {
                    let expected =
                        (vlan * 10 + u32::from(source) / 2, vlan * 10 + u32::from(destination) / 2);
                    let result = vlis(&table, vlan, source, destination);
                    if expected.0 == expected.1 {
                        assert_eq!(result, Err(Loss::SameVli));
                    } else {
                        assert_eq!(result, Ok(expected));
                        let cell =
                            table.pair(VlanTag::new(vlan), mac(source), mac(destination)).unwrap();
                        assert!(cell < table.cell_count());
                        assert_eq!(*seen.entry(cell).or_insert(expected), expected);
                    }
                }
            }
        }
        assert_eq!(seen.len(), 2 * 4 * 3);
    }

    #[test]
    fn reasons_by_what_is_unknown() {
        let (table, _) = MacTable::build(&[record(1, 10, 1, 1), record(1, 10, 2, 2)]).unwrap();
        assert_eq!(vlis(&table, 10, 9, 2), Err(Loss::UnknownSource));
        assert_eq!(vlis(&table, 10, 1, 9), Err(Loss::UnknownDestination));
        assert_eq!(vlis(&table, 20, 1, 2), Err(Loss::UnknownSource));
        let group = table.pair(VlanTag::new(10), mac(1), Mac::BROADCAST);
        assert_eq!(group, Err(Loss::Broadcast));
        let group = table.pair(VlanTag::new(10), mac(1), Mac::from_bits(0x0100_5e00_0001));
        assert_eq!(group, Err(Loss::Multicast));
    }

    #[test]
    fn vlan_is_the_outermost_tag_that_the_table_knows() {
        let tag = VlanTag::new;
        let none = [VlanTag::NONE; 2];
        let vlan =
            |table: &MacTable, tags: &[VlanTag], switch| table.vlan(tags.iter().copied(), switch);
        let (table, _) = MacTable::build(&[record(1, 10, 1, 1), record(1, 20, 1, 2)]).unwrap();
        assert_eq!(vlan(&table, &[tag(10), tag(20)], none), Ok(tag(10)));
        assert_eq!(vlan(&table, &[tag(99), tag(20)], [tag(10), tag(10)]), Ok(tag(20)));
        assert_eq!(vlan(&table, &[tag(99)], [tag(10), tag(20)]), Ok(tag(10)));
        assert_eq!(vlan(&table, &[], [tag(98), tag(20)]), Ok(tag(20)));
        assert_eq!(vlan(&table, &[tag(99), tag(98)], [tag(97), none[0]]), Err(tag(98)));
        assert_eq!(vlan(&table, &[], [tag(97), tag(96)]), Err(tag(97)));
        assert_eq!(vlan(&table, &[], none), Err(VlanTag::NONE));
        let (table, _) = MacTable::build(&[record(1, 0, 1, 1)]).unwrap();
        assert_eq!(vlan(&table, &[], none), Ok(VlanTag::NONE));
        assert_eq!(vlan(&table, &[tag(5)], none), Err(tag(5)));
    }

    #[test]
    fn vlan_by_policy() {
        let tag = VlanTag::new;
        let none = [VlanTag::NONE; 2];
        let records = [record(1, 10, 1, 1), record(1, 20, 1, 2), record(2, 30, 1, 3)];
        let (table, _) = MacTable::build(&records).unwrap();
        let aliases = ["10=20", "7:10=30", "2017=10", "7:99=98"];
        let mut policy = AgentPolicy {
            vlan_aliases: aliases.map(|alias| alias.parse().unwrap()).to_vec(),
            untagged_vlan: Some(tag(20)),
            ..AgentPolicy::default()
        };
        let vlan = |policy: &AgentPolicy, port, tags: &[VlanTag], switch| {
            table.vlan_by(policy, port, tags.iter().copied(), switch)
        };
        assert_eq!(vlan(&policy, Some(6), &[tag(10)], none), Ok(tag(20)), "known, and yet another");
        assert_eq!(vlan(&policy, Some(7), &[tag(10)], none), Ok(tag(30)), "the port's own");
        assert_eq!(vlan(&policy, None, &[tag(99), tag(2017)], none), Ok(tag(10)));
        assert_eq!(vlan(&policy, None, &[], [tag(99), tag(2017)]), Ok(tag(10)));
        assert_eq!(vlan(&policy, None, &[], none), Ok(tag(20)));
        assert_eq!(
            vlan(&policy, Some(7), &[tag(99)], none),
            Err(tag(98)),
            "named, so not untagged"
        );
        policy.infrastructure = Some(InfrastructureId(2));
        assert_eq!(vlan(&policy, Some(6), &[tag(10)], none), Err(tag(20)));
        assert_eq!(vlan(&policy, Some(7), &[tag(10)], none), Ok(tag(30)));
        assert_eq!(vlan(&policy, None, &[], none), Err(tag(20)));
        for text in ["", "10", "10=", "=10", "0=10", "10=4095", "x:10=20", "-1:10=20", "1:2:3=4"] {
            assert_eq!(text.parse::<VlanAlias>(), Err(VlanAliasError), "{text}");
        }
        for alias in aliases {
            assert_eq!(alias.parse::<VlanAlias>().unwrap().to_string(), alias);
        }
    }

    #[test]
    fn an_agent_of_one_infrastructure_settles_what_two_share() {
        let records = [
            record(1, 10, 1, 11),
            record(1, 10, 2, 12),
            record(2, 10, 1, 21),
            record(2, 10, 2, 22),
            record(2, 10, 3, 23),
        ];
        let (table, _) = MacTable::build(&records).unwrap();
        let on = |infrastructure, source, destination| {
            let infrastructure = Some(InfrastructureId(infrastructure));
            let cell =
                table.pair_on(infrastructure, VlanTag::new(10), mac(source), mac(destination))?;
            let (source, destination) = table.vlis_of(cell);
            Ok((source.0, destination.0))
        };
        assert_eq!(on(1, 1, 2), Ok((11, 12)));
        assert_eq!(on(2, 1, 2), Ok((21, 22)));
        assert_eq!(on(2, 1, 3), Ok((21, 23)));
        assert_eq!(on(1, 1, 3), Err(Loss::UnknownDestination), "on the other one only");
        assert_eq!(on(1, 3, 1), Err(Loss::UnknownSource));
        assert_eq!(on(1, 1, 1), Err(Loss::SameVli));
        assert_eq!(on(3, 1, 2), Err(Loss::UnknownSource));
    }

    #[test]
    fn the_one_vlan_that_both_are_on() {
        let records = [
            record(1, 10, 1, 1),
            record(1, 20, 1, 2),
            record(1, 10, 2, 3),
            record(1, 10, 3, 4),
            record(1, 20, 3, 5),
            record(2, 20, 2, 6),
        ];
        let (table, _) = MacTable::build(&records).unwrap();
        let common = |infrastructure: Option<u32>, source, destination| {
            let infrastructure = infrastructure.map(InfrastructureId);
            table.common_vlan(infrastructure, mac(source), mac(destination))
        };
        assert_eq!(
            common(None, 1, 2),
            Some(VlanTag::new(10)),
            "20 is of different infrastructures"
        );
        assert_eq!(common(None, 1, 3), None, "two");
        assert_eq!(common(None, 1, 9), None);
        assert_eq!(common(Some(2), 1, 2), None);
        let known: Vec<_> = table.memberships(mac(2)).iter().map(|m| m.vli.0).collect();
        assert_eq!(known, [3, 6]);
        assert_eq!(table.memberships(mac(9)), []);
    }

    #[test]
    fn two_vlis_of_one_mac_resolve_to_the_lowest_in_any_order() {
        let records = [record(1, 10, 1, 7), record(1, 10, 1, 5), record(1, 10, 2, 6)];
        let reversed: Vec<_> = records.iter().rev().copied().collect();
        for records in [&records[..], &reversed] {
            let (table, conflicts) = MacTable::build(records).unwrap();
            assert_eq!(vlis(&table, 10, 1, 2), Ok((5, 6)));
            let [Conflict::TwoVlis { used, ignored, .. }] = conflicts[..] else {
                panic!("{conflicts:?}");
            };
            assert_eq!((used, ignored), (VliId(5), VliId(7)));
        }
    }

    #[test]
    fn infrastructures_that_share_a_tag_are_told_apart_by_the_other_end() {
        let records = [
            record(1, 10, 1, 11),
            record(1, 10, 2, 12),
            record(2, 10, 1, 21),
            record(2, 10, 3, 23),
            record(3, 10, 1, 31),
            record(3, 10, 2, 32),
        ];
        let (table, conflicts) = MacTable::build(&records).unwrap();
        assert_eq!(vlis(&table, 10, 1, 2), Ok((11, 12)), "both on 1 and 3: the lowest");
        assert_eq!(vlis(&table, 10, 1, 3), Ok((21, 23)));
        assert_eq!(vlis(&table, 10, 3, 1), Ok((23, 21)));
        assert_eq!(vlis(&table, 10, 2, 3), Err(Loss::AcrossInfrastructures));
        assert_eq!(vlis(&table, 10, 1, 1), Err(Loss::SameVli));
        let kinds: Vec<_> = conflicts.iter().map(ToString::to_string).collect();
        assert_eq!(conflicts.len(), 3, "{kinds:?}");
        assert!(kinds[0].contains("infrastructures 1, 2, 3"), "{kinds:?}");
    }

    #[test]
    fn a_table_without_bound_is_refused() {
        let records: Vec<_> = (0..=VLIS_PER_LAN_MAX as u32)
            .map(|n| {
                let [a, b, c, d] = n.to_be_bytes();
                MacRecord { mac: Mac::from_octets([2, 0, a, b, c, d]), ..record(1, 10, 0, n) }
            })
            .collect();
        let error = MacTable::build(&records).unwrap_err();
        assert!(matches!(error, TableError::TooManyVlis { count: 20_001, .. }), "{error}");
    }

    #[test]
    fn policy_by_prefix_and_agent() {
        let mut policy = Policy::default();
        assert!(policy.allows("192.0.2.1".parse().unwrap()));
        policy.sources_allowed = vec!["192.0.2.0/24".parse().unwrap()];
        assert!(policy.allows("192.0.2.1".parse().unwrap()));
        assert!(!policy.allows("198.51.100.1".parse().unwrap()));
        assert!(!policy.allows("2001:db8::1".parse().unwrap()));
    }
}
