//! Losses by name: whatever was received and does not reach a file is counted here, once, under
//! the one reason that says why.

macro_rules! losses {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A reason why a datagram or a sample was not counted.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Loss {
            $($(#[$doc])* $variant,)*
        }

        impl Loss {
            /// Every reason, in the order of the data path.
            pub const ALL: &'static [Loss] = &[$(Loss::$variant,)*];

            /// The name in logs, metrics and tables.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Loss::$variant => $name,)*
                }
            }
        }
    };
}

losses! {
    /// A datagram from a source address outside `sflow_agents_allow`.
    SourceRefused = "source_refused",
    /// A datagram that the socket buffer held cut off (longer than the receive buffer).
    DatagramOversized = "datagram_oversized",
    /// A datagram that ends inside its header (sFlow v5, section 5, struct sample_datagram_v5).
    DatagramTruncated = "datagram_truncated",
    /// A datagram of another version: sFlow v2 or v4, NetFlow, or no sFlow at all.
    WrongVersion = "wrong_version",
    /// A datagram whose agent address is neither IPv4 (1) nor IPv6 (2).
    BadAgentAddress = "bad_agent_address",
    /// A sample whose length points past the end of the datagram; the samples that the datagram
    /// announced behind it are `SampleMissing`.
    SampleOverrun = "sample_overrun",
    /// Samples that the datagram announced but does not hold (counted up to what would fit into
    /// the longest datagram).
    SampleMissing = "sample_missing",
    /// A flow or counters sample that ends inside its fixed fields.
    SampleTruncated = "sample_truncated",
    /// A flow or counters sample with a record whose length points past the end of the sample.
    RecordOverrun = "record_overrun",
    /// A flow or counters sample with a record of a known format that is shorter than its fields.
    RecordTruncated = "record_truncated",
    /// A packet that the switch discarded: a discard sample, or a flow sample whose output format
    /// is 1 (sFlow v5, section 5, struct interface): it reached nobody.
    Discarded = "discarded",
    /// A flow sample taken at egress where the policy counts ingress, or the reverse, or where
    /// it counts none.
    Direction = "direction",
    /// A flow sample with sampling rate 0.
    RateZero = "rate_zero",
    /// A flow sample without an Ethernet header: another header protocol, or no header at all.
    NoEthernet = "no_ethernet",
    /// A sampled header that ends before the EtherType.
    HeaderTruncated = "header_truncated",
    /// A frame whose EtherType is neither IPv4 nor IPv6: ARP, LLDP, MPLS and the rest.
    NotIp = "not_ip",
    /// A frame shorter than 64 bytes, longer than 16 kB, or shorter than its own sampled header.
    ImplausibleLength = "implausible_length",
    /// A frame that came before the first MAC table.
    NoTable = "no_table",
    /// A frame on a VLAN that the table does not know.
    UnknownVlan = "unknown_vlan",
    /// A frame to the broadcast address.
    Broadcast = "broadcast",
    /// A frame to a multicast address.
    Multicast = "multicast",
    /// A frame whose source is not in the table on its VLAN.
    UnknownSource = "unknown_source",
    /// A frame whose destination is not in the table on its VLAN.
    UnknownDestination = "unknown_destination",
    /// A frame to an address that is not in the table, which the switch flooded to several ports
    /// (output format 2; sFlow v5, section 5, struct interface).
    Flooded = "flooded",
    /// A frame that wraps another one, between addresses that are not in the table, of an agent
    /// without `decapsulate` for it.
    Encapsulated = "encapsulated",
    /// A frame between two infrastructures that share a VLAN tag: no such path exists.
    AcrossInfrastructures = "across_infrastructures",
    /// A frame whose source and destination are one VLI.
    SameVli = "same_vli",
    /// A frame between two VLIs that came in on a link between switches, where `core_ports` leaves
    /// those out: it was sampled where it entered the fabric.
    CorePort = "core_port",
}

/// How often each reason applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Losses([u64; Loss::ALL.len()]);

impl Default for Losses {
    fn default() -> Losses {
        Losses([0; Loss::ALL.len()])
    }
}

impl Losses {
    /// Counts `loss` once.
    #[inline]
    pub fn count(&mut self, loss: Loss) {
        self.count_many(loss, 1);
    }

    /// Counts `loss` `times` times.
    #[inline]
    pub fn count_many(&mut self, loss: Loss, times: u64) {
        self.0[loss as usize] += times;
    }

    /// How often `loss` applied.
    pub fn of(&self, loss: Loss) -> u64 {
        self.0[loss as usize]
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Losses) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine += theirs;
        }
    }

    /// What came since `earlier`.
    pub fn since(&self, earlier: &Losses) -> Losses {
        let mut difference = self.clone();
        for (mine, theirs) in difference.0.iter_mut().zip(&earlier.0) {
            *mine = mine.saturating_sub(*theirs);
        }
        difference
    }

    /// The reasons that applied, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Loss, u64)> + '_ {
        Loss::ALL.iter().map(|&loss| (loss, self.of(loss))).filter(|&(_, count)| count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_stay_with_their_reason() {
        let mut losses = Losses::default();
        losses.count(Loss::NotIp);
        losses.count_many(Loss::SameVli, 3);
        let earlier = losses.clone();
        losses.merge(&earlier);
        assert_eq!(losses.iter().collect::<Vec<_>>(), [(Loss::NotIp, 2), (Loss::SameVli, 6)]);
        assert_eq!(losses.since(&earlier), earlier);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = Loss::ALL.iter().map(|loss| loss.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Loss::ALL.len());
    }
}
