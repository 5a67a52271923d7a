//! `/live.json`: the last seconds of one VLAN, aggregated on demand from the flusher's snapshot.
//!
//! However many VLIs a VLAN has, an answer has at most [`SIDE_MAX`] rows and columns: of a larger
//! VLAN a cell is the sum of several VLIs, which are neighbours in the order of their traffic. A
//! part of the rows and columns can be asked for, so that one can go in.
//!
//! The lists of members and pairs are the first [`TOP_MAX`] at the most, by the order that is
//! asked for, of the whole VLAN or of one VLI and its peers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use serde::{Deserialize, Serialize};

use crate::count::{Traffic, relative_error_percent};
use crate::flush::PairTraffic;
use crate::flush::live::Snapshot;
use crate::ixp::{IpProtocol, VliId};
use crate::resolve::Lan;

/// Rows, and columns, of an answer at the most.
pub const SIDE_MAX: usize = 96;

/// Pairs and members in the lists of an answer, unless another number is asked for.
const TOP: usize = 50;

/// Pairs and members in the lists of an answer at the most.
pub const TOP_MAX: usize = 1_000;

/// VLIs keep their places in the matrix for so long, that rows do not jump under the eyes.
const ORDER_KEPT: Duration = Duration::from_secs(30);

/// VLANs whose order is remembered.
const ORDERS_MAX: usize = 256;

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug, Deserialize)]
#[serde(default)]
pub struct Query {
    infrastructure: Option<u32>,
    vlan: Option<u16>,
    protocol: Protocols,
    /// First and last rank of the rows, and of the columns.
    row_from: usize,
    row_to: Option<usize>,
    column_from: usize,
    column_to: Option<usize>,
    /// Rows and columns of the answer at the most.
    side: Option<usize>,
    /// The only VLI whose pairs are in the lists; its peers are the members.
    vli: Option<u32>,
    /// The order of the lists.
    sort: Order,
    /// Pairs and members in the lists at the most.
    top: Option<usize>,
}

/// The order of a list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    /// Most bits a second first.
    #[default]
    Bits,
    /// Most packets a second first.
    Packets,
    /// The smallest relative error first, which is that of most samples.
    Error,
}

impl Order {
    /// What is sorted by, the largest first.
    fn weight(self, rate: Rate) -> f64 {
        match self {
            Order::Bits => rate.bits_per_sec,
            Order::Packets => rate.packets_per_sec,
            Order::Error => rate.samples as f64,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Protocols {
    #[default]
    Both,
    Ipv4,
    Ipv6,
}

impl Protocols {
    fn rate(self, traffic: &Traffic, secs: f64) -> Rate {
        let (bytes, packets, samples) = IpProtocol::ALL
            .into_iter()
            .filter(|&protocol| match self {
                Protocols::Both => true,
                Protocols::Ipv4 => protocol == IpProtocol::V4,
                Protocols::Ipv6 => protocol == IpProtocol::V6,
            })
            .map(|protocol| protocol as usize)
            .fold((0.0, 0.0, 0), |(bytes, packets, samples), protocol| {
                (
                    bytes + traffic.bytes[protocol] as f64,
                    packets + traffic.packets[protocol] as f64,
                    samples + u64::from(traffic.samples[protocol]),
                )
            });
        let rate = |count: f64| (count / secs).round();
        Rate { bits_per_sec: rate(bytes * 8.0), packets_per_sec: rate(packets), samples }
    }
}

/// A rate, and on how many samples it rests.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct Rate {
    bits_per_sec: f64,
    packets_per_sec: f64,
    samples: u64,
}

impl Rate {
    fn add(&mut self, other: Rate) {
        self.bits_per_sec += other.bits_per_sec;
        self.packets_per_sec += other.packets_per_sec;
        self.samples += other.samples;
    }

    /// The relative error that 19 of 20 such rates do not exceed, in percent.
    fn error_percent(self) -> Option<f64> {
        (self.samples > 0).then(|| relative_error_percent(self.samples))
    }
}

#[derive(Clone, Debug, Serialize)]
struct LanName {
    infrastructure: u32,
    vlan: u16,
    vlis: usize,
}

#[derive(Clone, Debug, Serialize)]
struct Member {
    vli: u32,
    out: Rate,
    #[serde(rename = "in")]
    into: Rate,
}

#[derive(Clone, Debug, Serialize)]
struct Pair {
    source: u32,
    destination: u32,
    #[serde(flatten)]
    rate: Rate,
    error_percent: Option<f64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Span {
    from: usize,
    to: usize,
    /// VLIs in a row or column.
    group: usize,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    /// False while the first seconds are being counted.
    ready: bool,
    from_millis: u64,
    to_millis: u64,
    lans: Vec<LanName>,
    lan: Option<LanName>,
    protocol: Protocols,
    total: Rate,
    /// All VLIs of the VLAN, by their traffic: a rank is a place in this list.
    order: Vec<u32>,
    rows: Span,
    columns: Span,
    /// Row, column (both from 0, in units of groups), bits a second, packets a second, samples.
    cells: Vec<(u32, u32, f64, f64, u64)>,
    members: Vec<Member>,
    pairs: Vec<Pair>,
}

/// The VLIs of a VLAN by their traffic, and when they were put in this order.
type Ranking = (Instant, Arc<Vec<VliId>>);

/// The order of the VLIs of each VLAN that was looked at, by infrastructure and tag.
#[derive(Default, Debug)]
pub struct Orders(HashMap<(u32, u16), Ranking, FixedState>);

impl Orders {
    fn of(
        &mut self,
        lan: &Lan,
        traffic: &HashMap<VliId, (Rate, Rate), FixedState>,
    ) -> Arc<Vec<VliId>> {
        let key = (lan.infrastructure.0, lan.vlan.as_u16());
        if let Some((made, order)) = self.0.get(&key)
            && made.elapsed() < ORDER_KEPT
            && order.len() == lan.vlis.len()
            && order.iter().all(|vli| lan.vlis.binary_search(vli).is_ok())
        {
            return order.clone();
        }
        let weight = |vli: &VliId| {
            traffic.get(vli).map_or(0.0, |(out, into)| out.bits_per_sec + into.bits_per_sec)
        };
        let mut order = lan.vlis.clone();
        order.sort_by(|a, b| weight(b).total_cmp(&weight(a)).then(a.cmp(b)));
        let order = Arc::new(order);
        if self.0.len() >= ORDERS_MAX {
            self.0.clear();
        }
        self.0.insert(key, (Instant::now(), order.clone()));
        order
    }
}

/// The view of `snapshot` that `query` asks for; before there is one, of the VLANs of the table.
pub fn view(query: &Query, snapshot: Option<&Snapshot>, lans: &[Lan], orders: &mut Orders) -> View {
    let lans = snapshot.map_or(lans, |snapshot| &snapshot.lans);
    let name = |lan: &Lan| LanName {
        infrastructure: lan.infrastructure.0,
        vlan: lan.vlan.as_u16(),
        vlis: lan.vlis.len(),
    };
    let asked = |lan: &&Lan| {
        query.infrastructure.is_none_or(|id| id == lan.infrastructure.0)
            && query.vlan.is_none_or(|vlan| vlan == lan.vlan.as_u16())
            && query.vli.is_none_or(|vli| lan.vlis.binary_search(&VliId(vli)).is_ok())
    };
    // Unless one is asked for, the largest.
    let lan = lans.iter().filter(asked).max_by_key(|lan| lan.vlis.len());
    let mut view = View {
        ready: snapshot.is_some(),
        from_millis: snapshot.map_or(0, |snapshot| snapshot.from_millis),
        to_millis: snapshot.map_or(0, |snapshot| snapshot.to_millis),
        lans: lans.iter().map(name).collect(),
        lan: lan.map(name),
        protocol: query.protocol,
        total: Rate::default(),
        order: Vec::new(),
        rows: Span { from: 0, to: 0, group: 1 },
        columns: Span { from: 0, to: 0, group: 1 },
        cells: Vec::new(),
        members: Vec::new(),
        pairs: Vec::new(),
    };
    let (Some(lan), Some(snapshot)) = (lan, snapshot) else { return view };
    let secs = snapshot.to_millis.saturating_sub(snapshot.from_millis).max(1) as f64 / 1_000.0;

    let here = |pair: &&PairTraffic| {
        lan.vlis.binary_search(&pair.source).is_ok()
            && lan.vlis.binary_search(&pair.destination).is_ok()
    };
    let rates: Vec<(VliId, VliId, Rate)> = snapshot
        .pairs
        .iter()
        .filter(here)
        .map(|pair| (pair.source, pair.destination, query.protocol.rate(&pair.traffic, secs)))
        .filter(|(_, _, rate)| rate.samples > 0)
        .collect();
    let mut traffic: HashMap<VliId, (Rate, Rate), FixedState> = HashMap::default();
    for &(source, destination, rate) in &rates {
        view.total.add(rate);
        traffic.entry(source).or_default().0.add(rate);
        traffic.entry(destination).or_default().1.add(rate);
    }
    let order = orders.of(lan, &traffic);
    let rank: HashMap<VliId, usize, FixedState> =
        order.iter().enumerate().map(|(rank, &vli)| (vli, rank)).collect();
    let side = query.side.unwrap_or(SIDE_MAX).clamp(1, SIDE_MAX);
    view.rows = span(query.row_from, query.row_to, order.len(), side);
    view.columns = span(query.column_from, query.column_to, order.len(), side);
    let mut cells: HashMap<(u32, u32), Rate, FixedState> = HashMap::default();
    for (source, destination, rate) in &rates {
        let row = rank.get(source).and_then(|&rank| place(rank, view.rows));
        let column = rank.get(destination).and_then(|&rank| place(rank, view.columns));
        if let (Some(row), Some(column)) = (row, column) {
            cells.entry((row, column)).or_default().add(*rate);
        }
    }
    view.cells = cells
        .into_iter()
        .map(|((row, column), rate)| {
            (row, column, rate.bits_per_sec, rate.packets_per_sec, rate.samples)
        })
        .collect();
    view.cells.sort_unstable_by_key(|&(row, column, ..)| (row, column));

    let listed = rates.iter().filter(|(source, destination, _)| {
        query.vli.is_none_or(|vli| source.0 == vli || destination.0 == vli)
    });
    if query.vli.is_some() {
        traffic.clear();
        for &(source, destination, rate) in listed.clone() {
            traffic.entry(source).or_default().0.add(rate);
            traffic.entry(destination).or_default().1.add(rate);
        }
    }
    let top_max = query.top.unwrap_or(TOP).clamp(1, TOP_MAX);
    let members = traffic.iter().map(|(vli, &(out, into))| Member { vli: vli.0, out, into });
    let weight = |member: &Member| query.sort.weight(member.out) + query.sort.weight(member.into);
    view.members = top(members.collect(), top_max, |a, b| {
        weight(b).total_cmp(&weight(a)).then(a.vli.cmp(&b.vli))
    });
    let pairs = listed.map(|&(source, destination, rate)| Pair {
        source: source.0,
        destination: destination.0,
        rate,
        error_percent: rate.error_percent(),
    });
    view.pairs = top(pairs.collect(), top_max, |a, b| {
        let by_rate = query.sort.weight(b.rate).total_cmp(&query.sort.weight(a.rate));
        by_rate.then((a.source, a.destination).cmp(&(b.source, b.destination)))
    });
    view.order = order.iter().map(|vli| vli.0).collect();
    view
}

/// The first `count` in an order.
fn top<T>(
    mut all: Vec<T>,
    count: usize,
    order: impl Fn(&T, &T) -> std::cmp::Ordering + Copy,
) -> Vec<T> {
    if all.len() > count {
        all.select_nth_unstable_by(count, order);
        all.truncate(count);
    }
    all.sort_unstable_by(order);
    all
}

fn span(from: usize, to: Option<usize>, count: usize, side: usize) -> Span {
    let last = count.saturating_sub(1);
    let from = from.min(last);
    let to = to.unwrap_or(last).clamp(from, last);
    Span { from, to, group: (to - from + 1).div_ceil(side) }
}

fn place(rank: usize, span: Span) -> Option<u32> {
    let inside = (span.from..=span.to).contains(&rank);
    inside.then(|| u32::try_from((rank - span.from) / span.group).unwrap_or(u32::MAX))
}

/// The pairs with most bytes.
pub fn busiest(snapshot: &Snapshot, count: usize) -> Vec<PairTraffic> {
    let bytes = |pair: &PairTraffic| pair.traffic.bytes[0].saturating_add(pair.traffic.bytes[1]);
    let order = |a: &PairTraffic, b: &PairTraffic| {
        bytes(b).cmp(&bytes(a)).then((a.source, a.destination).cmp(&(b.source, b.destination)))
    };
    let mut pairs = snapshot.pairs.clone();
    if pairs.len() > count && count > 0 {
        pairs.select_nth_unstable_by(count, order);
    }
    pairs.truncate(count);
    pairs.sort_unstable_by(order);
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ixp::{InfrastructureId, VlanTag};

    fn snapshot(vlis: u32) -> Snapshot {
        let lan = |vlan: u32, first: u32, count: u32| Lan {
            infrastructure: InfrastructureId(1),
            vlan: VlanTag::new(vlan),
            vlis: (first..first + count).map(VliId).collect(),
        };
        // VLI n sends n x 1,000 bytes of IPv4 to each, and 5 of IPv6.
        let mut pairs = Vec::new();
        for source in 1..=vlis {
            for destination in (1..=vlis).filter(|&destination| destination != source) {
                let traffic = Traffic {
                    bytes: [u64::from(source) * 1_000, 5],
                    packets: [10, 1],
                    samples: [4, 1],
                };
                let (source, destination) = (VliId(source), VliId(destination));
                pairs.push(PairTraffic { source, destination, traffic });
            }
        }
        let elsewhere = (VliId(9_001), VliId(9_002));
        let traffic = Traffic { bytes: [1 << 40, 0], packets: [1, 0], samples: [1, 0] };
        pairs.push(PairTraffic { source: elsewhere.0, destination: elsewhere.1, traffic });
        let lans = vec![lan(10, 1, vlis), lan(20, 9_000, 3)].into();
        Snapshot { from_millis: 10_000, to_millis: 20_000, lans, pairs }
    }

    fn total(view: &View) -> (f64, u64) {
        let bits = view.cells.iter().map(|cell| cell.2).sum();
        (bits, view.cells.iter().map(|cell| cell.4).sum())
    }

    #[test]
    fn a_matrix_of_any_size_has_all_the_traffic() {
        for vlis in [4, 96, 97, 250] {
            let snapshot = snapshot(vlis);
            let view = view(&Query::default(), Some(&snapshot), &[], &mut Orders::default());
            let group = (vlis as usize).div_ceil(SIDE_MAX);
            assert_eq!((view.rows.group, view.columns.group), (group, group));
            let count = u64::from(vlis);
            assert_eq!(view.total.samples, count * (count - 1) * 5);
            assert_eq!(total(&view), (view.total.bits_per_sec, view.total.samples));
            assert!(view.cells.iter().all(|cell| (cell.0 as usize) < SIDE_MAX));
            assert_eq!(view.order[0], vlis, "the one with most traffic first");
            assert_eq!(view.lan.unwrap().vlan, 10, "the largest");
        }
    }

    #[test]
    fn a_part_of_the_matrix_is_that_part() {
        let snapshot = snapshot(250);
        let query: Query = serde_json::from_str(
            r#"{"row_from": 0, "row_to": 1, "column_from": 2, "column_to": 4, "protocol": "ipv4"}"#,
        )
        .unwrap();
        let view = view(&query, Some(&snapshot), &[], &mut Orders::default());
        assert_eq!((view.rows.group, view.columns.group), (1, 1));
        let places: Vec<_> = view.cells.iter().map(|cell| (cell.0, cell.1)).collect();
        assert_eq!(places, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
        // VLI 250 sends 250,000 bytes in 10 seconds.
        assert_eq!(view.cells[0].2, 200_000.0);
        assert_eq!(view.cells[0].4, 4);
        assert_eq!(view.pairs.len(), TOP);
        assert_eq!(view.pairs[0].error_percent, Some(98.0));
    }

    #[test]
    fn lists_are_in_the_order_asked_for_and_of_the_vli_asked_for() {
        let mut snapshot = snapshot(60);
        // Few large packets, many small ones, many samples: each first in one order.
        let pair = |source: u32, destination: u32, bytes, packets, samples| PairTraffic {
            source: VliId(source),
            destination: VliId(destination),
            traffic: Traffic { bytes: [bytes, 0], packets: [packets, 0], samples: [samples, 0] },
        };
        snapshot.pairs.retain(|pair| pair.source.0 > 3);
        snapshot.pairs.extend([
            pair(1, 2, 1 << 30, 10, 1),
            pair(2, 3, 100, 1 << 20, 2),
            pair(3, 1, 100, 10, 1_000),
        ]);
        let ask = |text: &str| {
            let query: Query = serde_json::from_str(text).unwrap();
            view(&query, Some(&snapshot), &[], &mut Orders::default())
        };
        for (sort, first) in [("bits", (1, 2)), ("packets", (2, 3)), ("error", (3, 1))] {
            let view = ask(&format!(r#"{{"sort": "{sort}", "top": 7}}"#));
            assert_eq!((view.pairs[0].source, view.pairs[0].destination), first, "{sort}");
            assert_eq!((view.pairs.len(), view.members.len()), (7, 7));
        }
        let whole = ask("{}");
        let one = ask(r#"{"vli": 2, "top": 1000}"#);
        // 57 senders to VLI 2, and what it sends and receives of the three above.
        assert_eq!(one.pairs.len(), 57 + 2);
        assert!(one.pairs.iter().all(|pair| pair.source == 2 || pair.destination == 2));
        assert_eq!(one.total, whole.total, "the total is the VLAN's");
        let member = |vli| one.members.iter().find(|member| member.vli == vli).unwrap();
        assert_eq!(member(3).into.samples, 2, "from VLI 2 alone");
        assert_eq!(member(2).out.samples, 2);
        assert_eq!(ask(r#"{"vli": 9001}"#).lan.unwrap().vlan, 20, "where the VLI is");
        assert!(ask(r#"{"vli": 5000}"#).lan.is_none());
        assert_eq!(ask(r#"{"top": 0}"#).pairs.len(), 1);
        assert!(ask(r#"{"top": 100000}"#).pairs.len() <= TOP_MAX);
    }

    #[test]
    fn bounds_of_anybody_make_no_panic() {
        let snapshot = snapshot(3);
        for (from, to, side) in [(9, Some(2), 0), (usize::MAX, None, usize::MAX), (2, Some(0), 7)] {
            let query = Query {
                row_from: from,
                row_to: to,
                column_from: from,
                column_to: to,
                side: Some(side),
                ..Query::default()
            };
            view(&query, Some(&snapshot), &[], &mut Orders::default());
        }
        let nowhere = Query { vlan: Some(99), ..Query::default() };
        assert!(view(&nowhere, Some(&snapshot), &[], &mut Orders::default()).cells.is_empty());
        assert!(!view(&Query::default(), None, &[], &mut Orders::default()).ready);
    }

    #[test]
    fn the_busiest_pairs_come_first() {
        let busiest = busiest(&snapshot(10), 3);
        let sources: Vec<_> = busiest.iter().map(|pair| pair.source.0).collect();
        assert_eq!(sources, [9_001, 10, 10]);
        assert!(super::busiest(&snapshot(3), 0).is_empty());
    }
}
