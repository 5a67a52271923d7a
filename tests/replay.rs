//! `ixflow replay`: captures of real agents against what an independent decoder read, and a
//! capture of a simulated fabric against its truth.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufWriter;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;

use ixflow::simulate::{Fabric, PcapWriter, Truth};
use ixflow::sink::librrd::fetch;
use ixflow::sink::{Consolidation, File};
use serde_json::Value;

use crate::support::ixflow::ixflow;
use crate::support::path::START_SECS;

fn replay(arguments: &[&str]) -> Output {
    ixflow().arg("replay").args(arguments).output().unwrap()
}

/// The lines of `--json`, of a replay that went well.
fn json_lines(arguments: &[&str]) -> Vec<Value> {
    let output = replay(&[&["--json"], arguments].concat());
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn fails(arguments: &[&str]) -> String {
    let output = replay(arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Samples, packets and bytes.
type Sums = [u64; 3];

/// What a capture yields: sums by (VLAN, source, destination, protocol), losses by name, and
/// datagrams, flow samples, counters samples, counted ones.
#[derive(Default, PartialEq, Debug)]
struct Yield {
    pairs: BTreeMap<(u64, String, String, String), Sums>,
    losses: BTreeMap<String, u64>,
    totals: [u64; 4],
}

impl Yield {
    /// Reads what `--json` printed; `keys` are the names of both ends.
    fn printed(lines: &[Value], keys: [&str; 2]) -> Yield {
        let mut printed = Yield::default();
        let number = |line: &Value, key: &str| line[key].as_u64().unwrap();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), Into::into);
        for line in lines {
            if line.get("packets").is_some() {
                let [source, destination] = keys.map(|key| text(&line[key]).replace(':', ""));
                let key = (number(line, "vlan"), source, destination, text(&line["protocol"]));
                let sums = ["samples", "packets", "bytes"].map(|key| number(line, key));
                assert!(printed.pairs.insert(key, sums).is_none(), "twice: {line}");
            } else if let Some(loss) = line.get("not_counted") {
                printed.losses.insert(text(loss), number(line, "count"));
            } else if line.get("datagrams").is_some() {
                printed.totals = ["datagrams", "flow_samples", "counters_samples", "counted"]
                    .map(|key| number(line, key));
            }
        }
        printed
    }

    fn lose(&mut self, loss: &str) {
        *self.losses.entry(loss.into()).or_default() += 1;
    }

    /// Counts a datagram of expected.jsonl by the rules of the incumbent, with the refinements
    /// that ixflow documents.
    fn expect(&mut self, datagram: &Value, egress_counts: bool) {
        self.totals[0] += 1;
        if datagram["version"] != 5 {
            return self.lose("wrong_version");
        }
        match datagram["error"].as_str() {
            None => {}
            Some("header:EOFError") => return self.lose("datagram_truncated"),
            Some("truncated at sample 0") => self.lose("sample_overrun"),
            Some(error) => panic!("{error}"),
        }
        for sample in datagram["samples"].as_array().into_iter().flatten() {
            match sample["fmt"].as_u64() {
                Some(2 | 4) => self.totals[2] += 1,
                Some(5) => self.lose("discarded"),
                Some(1 | 3) if sample["error"] == "overrun" => self.lose("record_overrun"),
                Some(1 | 3) => {
                    self.totals[1] += 1;
                    if let Err(loss) = self.expect_flow(sample, egress_counts) {
                        self.lose(loss);
                    }
                }
                _ => {}
            }
        }
    }

    fn expect_flow(&mut self, sample: &Value, egress_counts: bool) -> Result<(), &'static str> {
        let record = |format: u64| {
            let records = sample["records"].as_array().into_iter().flatten();
            records.into_iter().find(|record| record["ent"] == 0 && record["fmt"] == format)
        };
        if sample["out_fmt"] == 1 {
            return Err("discarded");
        }
        let is =
            |format: &str, value: &str| sample[format] == 0 && sample[value] == sample["src_idx"];
        if !is("in_fmt", "in") && is("out_fmt", "out") && !egress_counts {
            return Err("direction");
        }
        let rate = sample["rate"].as_u64().unwrap();
        if rate == 0 {
            return Err("rate_zero");
        }
        let named = |vlan: &u64| (1..4_095).contains(vlan);
        let switch = record(1001).into_iter().flat_map(|s| [&s["src_vlan"], &s["dst_vlan"]]);
        let mut vlans: Vec<u64> = switch.filter_map(Value::as_u64).filter(named).collect();
        let (ethernet, length, captured) = match (record(1), record(2)) {
            (Some(raw), _) if raw["proto"] == 1 => {
                let tags = raw["eth"]["tags"].as_array().ok_or("header_truncated")?;
                let tags = tags.iter().filter_map(|tag| tag["vid"].as_u64()).filter(named);
                vlans = tags.chain(vlans).collect();
                (&raw["eth"], raw["frame"].as_u64(), raw["hlen"].as_u64())
            }
            (_, Some(ethernet)) => (ethernet, ethernet["eth_len"].as_u64(), Some(0)),
            _ => return Err("no_ethernet"),
        };
        let protocol = match ethernet["etype"].as_str() {
            Some("0800" | "800") => "ipv4",
            Some("86dd") => "ipv6",
            _ => return Err("not_ip"),
        };
        let length = length.unwrap();
        if !(64..=16_384).contains(&length) || Some(length) < captured {
            return Err("implausible_length");
        }
        let [source, destination] = ["src", "dst"].map(|key| ethernet[key].as_str().unwrap());
        // The lowest bit of the first octet.
        let is_group = |mac: &str| u8::from_str_radix(&mac[..2], 16).unwrap() & 1 == 1;
        if is_group(destination) {
            return Err(if destination == "ffffffffffff" { "broadcast" } else { "multicast" });
        }
        if is_group(source) {
            // Nobody's address, in no table.
            return Err("unknown_source");
        }
        if source == destination {
            return Err("same_vli");
        }
        let vlan = vlans.first().copied().unwrap_or(0);
        let key = (vlan, source.to_owned(), destination.to_owned(), protocol.to_owned());
        let sums = self.pairs.entry(key).or_default();
        *sums = [sums[0] + 1, sums[1] + rate, sums[2] + rate * length];
        self.totals[3] += 1;
        Ok(())
    }
}

/// The captures of real agents, where they are.
fn captures() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/captures");
    let present = folder.join("expected.jsonl").exists();
    if !present {
        eprintln!("skipped: no captures at {}", folder.display());
    }
    present.then_some(folder)
}

#[test]
fn captures_count_as_an_independent_decoder_reads_them() {
    let Some(folder) = captures() else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut files: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in fs::read_to_string(folder.join("expected.jsonl")).unwrap().lines() {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let file = line["file"].as_str().unwrap().to_owned();
        files.entry(file).or_default().push(line["d"].take());
    }
    let mut counted = 0;
    for (file, datagrams) in &files {
        let mut capture = folder.join(file);
        if !file.ends_with(".pcap") {
            let payload = fs::read(&capture).unwrap();
            capture = directory.path().join("one.pcap");
            let mut writer = PcapWriter::new(fs::File::create(&capture).unwrap()).unwrap();
            let source: SocketAddr = "192.0.2.1:5000".parse().unwrap();
            writer.write(START_SECS * 1_000_000, source, &payload).unwrap();
            writer.finish().unwrap();
        }
        for direction in ["ingress", "both"] {
            let mut expected = Yield::default();
            for datagram in datagrams {
                expected.expect(datagram, direction == "both");
            }
            counted += expected.totals[3];
            let capture = capture.to_str().unwrap();
            let lines = json_lines(&["--direction", direction, capture]);
            let printed = Yield::printed(&lines, ["source_mac", "destination_mac"]);
            assert_eq!(printed, expected, "{file}, {direction}");

            // The same as a table for the eye.
            let output = replay(&["--matrix", "--direction", direction, capture]);
            let table = String::from_utf8(output.stdout).unwrap();
            for ((vlan, source, ..), [samples, packets, bytes]) in &expected.pairs {
                let has = |line: &str| {
                    let words: Vec<_> = line.split_whitespace().collect();
                    let sums = [samples, packets, bytes].map(ToString::to_string);
                    let error = format!("{:.1}", 196.0 / (*samples as f64).sqrt());
                    words.len() == 8
                        && words[0] == vlan.to_string()
                        && words[1].replace(':', "") == *source
                        && words[4..7] == sums
                        && words[7] == error
                };
                assert!(table.lines().any(has), "{file}: {source} is not in\n{table}");
            }
        }
    }
    assert!(counted > 50, "{counted} samples were counted");
}

const RATE: u32 = 20;

/// A capture of a simulated fabric over four steps, with its table and its truth.
fn simulated(directory: &Path) -> (Fabric, Truth) {
    let fabric = Fabric::from_toml(
        "members = 5\nmacs_per_member = 2\ntagged_share = 0.5\nipv6_share = 0.4\n\
         sampling_rate = 1021\ncounters_interval_secs = 60\n\
         [noise]\narp = 0.02\nsame_vli = 0.02\negress = 0.02\nunknown_source = 0.02\n\
         [[infrastructure]]\nid = 1\n[[infrastructure.vlan]]\ntag = 10\n\
         [[infrastructure]]\nid = 2\n[[infrastructure.vlan]]\ntag = 20\n",
    );
    let fabric = fabric.unwrap();
    let mut generator = fabric.generator(START_SECS * 1_000, RATE).with_truth(300);
    let file = fs::File::create(directory.join("fabric.pcap")).unwrap();
    let mut writer = PcapWriter::new(BufWriter::new(file)).unwrap();
    let mut payload = Vec::new();
    while generator.next_micros() < (START_SECS + 1_200) * 1_000_000 {
        let emitted = generator.generate(&mut payload);
        writer.write(emitted.stamp_micros, emitted.source, &payload).unwrap();
    }
    writer.finish().unwrap();
    fs::write(directory.join("table.json"), fabric.mac_table_json()).unwrap();
    (fabric, generator.finish())
}

#[test]
fn a_simulated_capture_is_its_truth() {
    let directory = tempfile::tempdir().unwrap();
    let (fabric, truth) = simulated(directory.path());
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (capture, table) = (at("fabric.pcap"), at("table.json"));

    // As a matrix of VLIs.
    let lines = json_lines(&["--mac-table", &table, &capture]);
    let printed = Yield::printed(&lines, ["source_vli", "destination_vli"]);
    let mut expected = Yield::default();
    for pair in truth.pairs() {
        let vli = fabric.vlis().iter().find(|vli| vli.id == pair.source).unwrap();
        for (p, protocol) in ["ipv4", "ipv6"].into_iter().enumerate() {
            let sums: Sums =
                [pair.traffic.samples[p].into(), pair.traffic.packets[p], pair.traffic.bytes[p]];
            let [source, destination] =
                [pair.source, pair.destination].map(|vli| vli.0.to_string());
            let key = (vli.vlan.as_u16().into(), source, destination, protocol.to_owned());
            if sums[0] > 0 {
                expected.totals[3] += sums[0];
                expected.pairs.insert(key, sums);
            }
        }
    }
    expected.losses = truth.losses.iter().map(|(l, count)| (l.name().into(), count)).collect();
    assert_eq!(expected.losses.len(), 4);
    expected.totals[..3].copy_from_slice(&[
        truth.datagrams,
        truth.flow_samples,
        truth.counters_samples,
    ]);
    assert_eq!(printed, expected);

    // As files: every row of every pair.
    let config = at("ixpmanager.conf");
    fs::write(&config, "<ixp>\n\tsflow_rrdcached = 0\n</ixp>\n").unwrap();
    let tree = at("tree");
    let set = format!("sflow_rrddir={tree}");
    let arguments = ["--config", &config, "--set", &set, "--mac-table", &table, &capture];
    let output = replay(&arguments);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("updates written") && text.contains("not counted: not_ip"), "{text}");
    assert_eq!(truth.intervals.len(), 4);
    for pair in truth.pairs() {
        let name = format!(
            "ipv4/bytes/p2p/src-{:05}/p2p.ipv4.bytes.src-{:05}.dst-{:05}.rrd",
            pair.source.0, pair.source.0, pair.destination.0
        );
        let file: File = name.parse().unwrap();
        let path = file.path(Path::new(&tree));
        let rows =
            fetch(&path, Consolidation::Average, START_SECS, START_SECS + 1_199, 300).unwrap();
        // The first and the last step are known in part: a capture begins and ends with a
        // datagram.
        for interval in &truth.intervals[1..3] {
            let said = interval
                .pairs
                .iter()
                .find(|said| (said.source, said.destination) == (pair.source, pair.destination))
                .map_or(0, |said| said.traffic.bytes[0]);
            let row = rows.iter().find(|row| row.end_secs == interval.to_secs).unwrap();
            assert_eq!((row.values[1] * 300.0).round(), said as f64, "{name}");
        }
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let nowhere = at("nowhere.pcap");
    let error = fails(&["--matrix", &nowhere]);
    assert!(error.contains("nowhere.pcap") && error.contains("No such file"), "{error}");

    let text = at("text.pcap");
    fs::write(&text, "this is no capture, but long enough to be one").unwrap();
    let error = fails(&["--matrix", &text]);
    assert!(error.contains("text.pcap"), "{error}");
    assert!(error.to_lowercase().contains("pcap"), "{error}");

    simulated(directory.path());
    let capture = at("fabric.pcap");
    let config = at("ixpmanager.conf");
    fs::write(&config, "<ixp>\n</ixp>\n").unwrap();
    let error = fails(&["--config", &config, &capture]);
    assert!(error.contains("RRD files need a MAC table: give --mac-table"), "{error}");
    let error = fails(&["--matrix", "--mac-table", &at("no.json"), &capture]);
    assert!(error.contains("no.json") && error.contains("No such file"), "{error}");
    let error = fails(&["--matrix", "--mac-table", &config, &capture]);
    assert!(error.contains("JSON") && error.contains("ixpmanager.conf"), "{error}");
    let error = fails(&["--matrix", "--set", "sflow_flush_sec=60", &capture]);
    assert!(error.contains("did you mean sflow_flush_secs?"), "{error}");

    // What is before the damage counts.
    let whole = fs::read(&capture).unwrap();
    fs::write(at("cut.pcap"), &whole[..whole.len() - 100]).unwrap();
    let output = replay(&["--json", "--mac-table", &at("table.json"), &at("cut.pcap")]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("\"counted\":"), "{printed}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("cut.pcap"), "{error}");
}
