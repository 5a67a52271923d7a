//! The short way of a usual sample through a worker, held against the way that asks everything.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam_channel::bounded;
use ixflow::agent::Agents;
use ixflow::count::Traffic;
use ixflow::ixp::{InfrastructureId, Mac, MacRecord, VlanTag, VliId};
use ixflow::resolve::{CorePorts, MacTable, Plan, Policy};
use ixflow::simulate::RingSource;
use ixflow::state::State;
use ixflow::worker::{Epoch, Worker};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::support::datagram::{block, datagram, raw, switch, words};

/// Members 1 to 4 on VLANs 10 and 20; the MAC of 4 is on VLAN 20 of two infrastructures, that of 3
/// of VLI 2 as well.
fn table() -> MacTable {
    let record = |infrastructure, vlan, mac: u8, vli| MacRecord {
        infrastructure: InfrastructureId(infrastructure),
        vlan: VlanTag::new(vlan),
        mac: Mac::from_octets(address(mac)),
        vli: VliId(vli),
    };
    let records = [
        record(1, 10, 1, 1),
        record(1, 10, 2, 2),
        record(1, 10, 3, 2),
        record(1, 20, 1, 11),
        record(1, 20, 2, 12),
        record(1, 20, 4, 14),
        record(2, 20, 4, 24),
        record(2, 20, 3, 23),
    ];
    MacTable::build(&records).unwrap().0
}

/// A member's address, one that nobody has (5), a group's (6) and everybody's (7).
fn address(number: u8) -> [u8; 6] {
    match number {
        6 => [0x01, 0, 0x5e, 0, 0, 1],
        7 => [0xff; 6],
        _ => [2, 0, 0, 0, 0, number],
    }
}

fn sample() -> impl Strategy<Value = Vec<u8>> {
    let ends = (1u8..8, 1u8..8);
    let tags = vec((select(vec![0x8100u16, 0x88a8]), select(vec![0u16, 10, 20, 30, 4095])), 0..3);
    let ether_type = select(vec![0x0800u16, 0x0800, 0x86dd, 0x0806, 0x8847]);
    let length = select(vec![64u32, 1_518, 9_000, 16_384, 63, 16_385, 20]);
    let switched = prop::option::of(select(vec![0u32, 10, 20, 30, u32::MAX]));
    let rate = select(vec![1_000u32, 4_096, 0]);
    let source = select(vec![3u32, 4, 9, 1 << 24 | 3]);
    let output = select(vec![4u32, 3, 0x4000_0001, 0x8000_0002]);
    let protocol = select(vec![1u32, 1, 1, 11]);
    let captured = select(vec![60usize, 128, 14, 10]);
    let numbers = (any::<u32>(), source, rate, output, protocol);
    let frame = (ends, tags, ether_type, length, captured);
    (numbers, frame, switched, any::<bool>()).prop_map(|(numbers, frame, switched, expanded)| {
        let (number, source, rate, output, protocol) = numbers;
        let ((from, to), tags, ether_type, length, captured) = frame;
        let mut header = [address(to), address(from)].concat();
        for (tpid, tag) in tags {
            header.extend([tpid.to_be_bytes(), tag.to_be_bytes()].concat());
        }
        header.extend(ether_type.to_be_bytes());
        header.resize(captured, 0x45);
        let mut record = raw(length, &header);
        record[8..12].copy_from_slice(&protocol.to_be_bytes());
        let records: Vec<_> = [Some(record), switched.map(switch)].into_iter().flatten().collect();
        let count = 1 + u32::from(switched.is_some());
        let (format, fixed) = if expanded {
            let [class, index] = [source >> 24, source & 0x00ff_ffff];
            let out = [output >> 30, output & 0x3fff_ffff];
            (3, words(&[number, class, index, rate, 7, 0, 0, 3, out[0], out[1], count]))
        } else {
            (1, words(&[number, source, rate, 7, 0, 3, output, count]))
        };
        block(format, &[fixed, records.concat()].concat())
    })
}

/// What a worker makes of samples, by the names of the losses and by the pairs.
fn work(
    core_ports: CorePorts,
    samples: &[Vec<u8>],
) -> (Vec<(u32, Traffic)>, BTreeMap<String, u64>) {
    let mut policy = Policy::default();
    policy.other_agents.core_ports = core_ports;
    let agents = Agents::new(8, 64);
    let state = Arc::new(State::new(agents, 1));
    let (out, handovers) = bounded(8);
    let (_, spares) = bounded(1);
    let sender = SocketAddr::from(([192, 0, 2, 77], 6_343));
    let source = RingSource::new(vec![(sender, datagram(samples))], 1, 1_700_000_000_000);
    let epoch = Arc::new(Epoch::new(Plan { table: table(), policy }));
    Worker::new(0, source, None, 300, epoch, out, spares, state.clone()).run().unwrap();
    let mut pairs: Vec<_> = handovers
        .try_iter()
        .flat_map(|handover| {
            handover.ledger.iter().map(|(cell, sum)| (cell, *sum)).collect::<Vec<_>>()
        })
        .collect();
    pairs.sort_unstable_by_key(|(cell, _)| *cell);
    let totals = state.agents.totals();
    let mut sums: BTreeMap<_, _> =
        totals.losses.iter().map(|(loss, count)| (loss.name().to_owned(), count)).collect();
    sums.insert("flow samples".into(), totals.flow_samples);
    sums.insert("counted".into(), totals.counted);
    sums.insert("vlan inferred".into(), totals.vlan_inferred);
    (pairs, sums)
}

proptest! {
    /// A setting that decides nothing (a port that is none of the samples') takes an agent's samples
    /// off the short way: what is counted, and why not, must not depend on it.
    #[test]
    fn a_usual_sample_counts_as_one_of_which_everything_is_asked(samples in vec(sample(), 1..20)) {
        let usual = work(CorePorts::Report, &samples);
        let asked = work(CorePorts::List([999_999].into()), &samples);
        prop_assert_eq!(&usual, &asked);
        let counted: u64 = usual.0.iter().map(|(_, sum)| u64::from(sum.samples[0] + sum.samples[1])).sum();
        prop_assert_eq!(counted, usual.1["counted"]);
        let of_samples: u64 = usual.1.iter().filter(|(name, _)| !name.contains(' ')).map(|(_, n)| n).sum();
        prop_assert_eq!(of_samples, usual.1["flow samples"], "counted, or lost under one name");
    }
}
