//! A simulated exchange, the files that it must come to, and who keeps them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ixflow::agent::Agents;
use ixflow::count::Traffic;
use ixflow::flush::backlog::Keep;
use ixflow::ixp::{IpProtocol, Unit, VliId};
use ixflow::resolve::{Conflict, MacTable, Plan, Policy};
use ixflow::simulate::{Fabric, Generator, Truth};
use ixflow::sink::direct::Direct;
use ixflow::sink::librrd::fetch;
use ixflow::sink::rrdcached::{Address, Rrdcached, Settings};
use ixflow::sink::{Aggregates, Consolidation, Create, File, Share, Sink, Tree};

use super::path::{Running, START_SECS};
use super::rrdcached as daemon;

/// Two infrastructures that share tag 10, ports tagged and not, up to three MACs a VLI, compact
/// and expanded samples, agents of both families, and all noise that a fabric makes. The rates
/// are primes, so that no total is round.
pub(crate) const FABRIC: &str = r#"
seed = 20
members = 6
macs_per_member = 3
tagged_share = 0.5
ipv6_share = 0.35
zipf_exponent = 0.8
counters_interval_secs = 30
frame_length = [
    { bytes = 64, share = 0.4 }, { bytes = 777, share = 0.3 }, { bytes = 1518, share = 0.3 },
]

[noise]
arp = 0.01
unknown_vlan = 0.01
multicast = 0.01
unknown_source = 0.01
unknown_destination = 0.01
same_vli = 0.01
egress = 0.01
discarded = 0.01

[[infrastructure]]
id = 1
[[infrastructure.vlan]]
tag = 10
[[infrastructure.vlan]]
tag = 20
member_share = 0.5

[[infrastructure]]
id = 2
[[infrastructure.vlan]]
tag = 10
member_share = 0.5
[[infrastructure.vlan]]
tag = 30

[[switch]]
agent = "192.0.2.1"
infrastructure = 1
sampling_rate = 4099

[[switch]]
agent = "192.0.2.2"
infrastructure = 1
sampling_rate = 16381
expanded = true
extended_switch = "untagged"
if_index_base = 33554432

[[switch]]
agent = "2001:db8::3"
infrastructure = 2
sampling_rate = 1021
extended_switch = "zero"
"#;

/// Flow samples a second.
pub(crate) const RATE: u32 = 15;

/// What a VLI sent to another, by the pair.
pub(crate) type Pairs = BTreeMap<(VliId, VliId), Traffic>;

pub(crate) fn pairs(truth: &Truth) -> Pairs {
    truth.pairs().into_iter().map(|pair| ((pair.source, pair.destination), pair.traffic)).collect()
}

/// What was sent between two moments.
pub(crate) fn since(later: &Pairs, earlier: &Pairs) -> Pairs {
    let mut difference = later.clone();
    for (pair, before) in earlier {
        let traffic = difference.get_mut(pair).unwrap();
        for p in 0..2 {
            traffic.bytes[p] -= before.bytes[p];
            traffic.packets[p] -= before.packets[p];
            traffic.samples[p] -= before.samples[p];
        }
    }
    difference
}

/// The fabric's voice, and what it said since it was last asked.
pub(crate) struct Voice {
    pub(crate) generator: Generator,
    said: Pairs,
}

impl Voice {
    pub(crate) fn new(fabric: &Fabric) -> Voice {
        let generator = fabric.generator(START_SECS * 1_000, RATE).with_truth(300);
        Voice { generator, said: Pairs::new() }
    }

    /// Speaks until `end_secs`, and returns what was to be counted.
    pub(crate) fn speak(&mut self, running: &mut Running, end_secs: u64) -> Pairs {
        let mut payload = Vec::new();
        while self.generator.next_micros() < end_secs * 1_000_000 {
            let emitted = self.generator.generate(&mut payload);
            running.send(emitted.switch, emitted.source.is_ipv6(), &payload);
        }
        let said = pairs(&self.generator.clone().finish());
        let news = since(&said, &self.said);
        self.said = said;
        news
    }
}

/// The tree under test, and the daemon that keeps it, if any.
pub(crate) struct Bench {
    pub(crate) name: &'static str,
    pub(crate) daemon: Option<daemon::Rrdcached>,
    pub(crate) aggregates: Aggregates,
    pub(crate) directory: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new(name: &'static str, options: Option<&[&str]>) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("tree")).unwrap();
        let daemon = options.map(|options| daemon::Rrdcached::start(directory.path(), options));
        Bench { name, daemon, aggregates: Aggregates::default(), directory }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join("tree")
    }

    /// Where the daemon listens, whether or not it runs.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("rrdcached.sock")
    }

    /// Kills the daemon, which writes nothing more.
    pub(crate) fn kill_daemon(&mut self) {
        self.daemon = None;
    }

    /// Starts a daemon where the last one was.
    pub(crate) fn start_daemon(&mut self, options: &[&str]) {
        self.daemon = Some(daemon::Rrdcached::start(self.directory.path(), options));
    }

    /// A sink through an rrdcached that is there or will be.
    pub(crate) fn sink_to_be(&self, timeout: Duration) -> Box<dyn Sink> {
        let settings = Settings {
            address: Address::Unix(self.socket()),
            root: self.root(),
            share: Share::default(),
            create: Create::OnTraffic,
            aggregates: self.aggregates,
            timeout,
        };
        Box::new(Rrdcached::new(settings, Arc::default()).unwrap())
    }

    /// Keeps intervals beside the tree.
    pub(crate) fn keep(&self) -> Keep {
        Keep {
            state_dir: self.directory.path().join("state"),
            memory_intervals: 1,
            secs_max: 86_400,
            bytes_max: 1 << 30,
            again_secs: 3_600,
            save_every: Duration::from_secs(1),
        }
    }

    pub(crate) fn sink(&self) -> Box<dyn Sink> {
        let Some(daemon) = &self.daemon else {
            let tree = Tree::open(&self.root()).unwrap();
            let direct = Direct::new(tree, Create::OnTraffic, 2).unwrap();
            return Box::new(direct.with_aggregates(self.aggregates));
        };
        let settings = Settings {
            address: daemon.address.clone(),
            root: self.root(),
            share: Share::default(),
            create: Create::OnTraffic,
            aggregates: self.aggregates,
            timeout: Duration::from_secs(60),
        };
        Box::new(Rrdcached::new(settings, Arc::default()).unwrap())
    }

    /// The rows of a file that end in `from_secs < end <= to_secs`.
    pub(crate) fn rows(&self, file: File, from_secs: u64, to_secs: u64) -> Vec<[f64; 2]> {
        let path = file.path(&self.root());
        if let Some(daemon) = &self.daemon {
            daemon.flush(&path);
        }
        let rows = fetch(&path, Consolidation::Average, from_secs, to_secs, 300).unwrap();
        let rows = rows.iter().filter(|row| row.end_secs > from_secs && row.end_secs <= to_secs);
        rows.map(|row| row.values).collect()
    }
}

/// Every file that the fabric can have, with `traffic_in` and `traffic_out` of one interval.
pub(crate) fn expected(
    fabric: &Fabric,
    aggregates: Aggregates,
    traffic: &Pairs,
) -> BTreeMap<String, (File, [u64; 2])> {
    let mut files = BTreeMap::new();
    let none = Traffic::default();
    let sent =
        |source: VliId, destination: VliId| traffic.get(&(source, destination)).unwrap_or(&none);
    for (protocol, unit) in
        IpProtocol::ALL.into_iter().flat_map(|p| Unit::ALL.into_iter().map(move |unit| (p, unit)))
    {
        let amount = |traffic: &Traffic| match unit {
            Unit::Bytes => traffic.bytes[protocol as usize],
            Unit::Packets => traffic.packets[protocol as usize],
        };
        let mut insert = |file: File, values: [u64; 2]| {
            let (_, sums) = files.entry(file.to_string()).or_insert((file, [0, 0]));
            *sums = [sums[0] + values[0], sums[1] + values[1]];
        };
        for vli in fabric.vlis() {
            let lan = (vli.infrastructure, vli.vlan);
            let peers = fabric
                .vlis()
                .iter()
                .filter(|peer| (peer.infrastructure, peer.vlan) == lan && peer.id != vli.id);
            let (mut out_of, mut into) = (0, 0);
            for peer in peers {
                let [to_peer, from_peer] =
                    [amount(sent(vli.id, peer.id)), amount(sent(peer.id, vli.id))];
                // What the peer sent comes in, what it receives goes out...
                let file = File::Pair { protocol, unit, vli: vli.id, peer: peer.id };
                insert(file, [from_peer, to_peer]);
                out_of += to_peer;
                into += from_peer;
            }
            // ... but an individual's own sending is its `traffic_in`.
            insert(File::Individual { protocol, unit, vli: vli.id }, [out_of, into]);
            let own = match aggregates {
                Aggregates::Vlan => None,
                Aggregates::Infrastructure => Some(Some(vli.infrastructure)),
            };
            for infrastructure in own.into_iter().chain([None]) {
                let file = File::Aggregate { protocol, unit, vlan: vli.vlan, infrastructure };
                insert(file, [out_of, into]);
            }
        }
    }
    files
}

/// The stored rate stands for this total, to the last digit but the few units in the last place
/// by which librrd's parser of decimals errs; a row of two updates is rounded twice.
pub(crate) fn assert_rate(rate: f64, total: u64, ulps_max: u64, what: &str) {
    let truth = total as f64 / 300.0;
    let ulps = rate.to_bits().abs_diff(truth.to_bits());
    assert!(ulps <= ulps_max, "{what}: {rate} is not {truth} ({ulps} ulp)");
    assert_eq!((rate * 300.0).round(), total as f64, "{what}");
}

pub(crate) fn plan(fabric: &Fabric) -> Plan {
    let (table, conflicts) = MacTable::build(&fabric.mac_table()).unwrap();
    assert!(matches!(conflicts[..], [Conflict::SharedTag { .. }]), "{conflicts:?}");
    let policy = Policy {
        sources_allowed: ["127.0.0.1", "::1"].iter().map(|a| a.parse().unwrap()).collect(),
        ..Policy::default()
    };
    Plan { table, policy }
}

pub(crate) fn start(fabric: &Fabric, bench: &Bench, from_millis: u64) -> Running {
    Running::start(2, Agents::new(100, 1_000), plan(fabric), bench.sink(), from_millis)
}

/// As [`start`], with a sink of the caller's, and what waits kept beside the tree.
pub(crate) fn start_keeping(
    fabric: &Fabric,
    bench: &Bench,
    sink: Box<dyn Sink>,
    from_millis: u64,
) -> Running {
    let keep = Some(bench.keep());
    Running::start_keeping(2, Agents::new(100, 1_000), plan(fabric), vec![sink], from_millis, keep)
}

/// A row of all files: what was said in it, and of how many seconds it is known. Of none, it is
/// unknown; in a file that did not exist yet, zero.
pub(crate) struct Row {
    pub(crate) said: Pairs,
    pub(crate) known_secs: f64,
    /// Files that are not looked at.
    pub(crate) without: Vec<&'static str>,
}

impl Row {
    pub(crate) fn known(said: Pairs, known_secs: f64) -> Row {
        Row { said, known_secs, without: Vec::new() }
    }

    pub(crate) fn whole(said: Pairs) -> Row {
        Row::known(said, 300.0)
    }

    pub(crate) fn unknown() -> Row {
        Row::known(Pairs::new(), 0.0)
    }
}

/// Every file holds in each of its rows since `from_secs` what was said, to the last digit but
/// `ulps_max`; and who never spoke has no file.
pub(crate) fn assert_rows(
    bench: &Bench,
    fabric: &Fabric,
    from_secs: u64,
    rows: &[Row],
    ulps_max: u64,
) {
    let by_row: Vec<_> =
        rows.iter().map(|row| expected(fabric, bench.aggregates, &row.said)).collect();
    let mut compared = 0;
    for (name, &(file, _)) in &by_row[0] {
        let totals: Vec<[u64; 2]> = by_row.iter().map(|files| files[name].1).collect();
        if rows.iter().any(|row| row.without.contains(&name.as_str())) {
            continue;
        }
        if !file.path(&bench.root()).exists() {
            assert!(totals.iter().all(|totals| *totals == [0, 0]), "{name} is missing");
            continue;
        }
        let found = bench.rows(file, from_secs, from_secs + 300 * rows.len() as u64);
        assert_eq!(found.len(), rows.len(), "{name}");
        for (number, (row, (found, totals))) in
            rows.iter().zip(found.iter().zip(&totals)).enumerate()
        {
            let what = format!("{}: {name}, row {number}", bench.name);
            for (&rate, &total) in found.iter().zip(totals) {
                if row.known_secs == 0.0 {
                    assert!(rate.is_nan() || rate == 0.0, "{what}: {rate}");
                } else if row.known_secs == 300.0 {
                    assert_rate(rate, total, ulps_max, &what);
                } else {
                    let truth = total as f64 / row.known_secs;
                    assert!((rate - truth).abs() <= truth * 1e-12, "{what}: {rate}, not {truth}");
                }
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "{}: {compared} values", bench.name);
}
