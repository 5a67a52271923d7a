//! Decode against real datagrams, against what the incumbent's sflowtool prints, and against
//! arbitrary bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ixflow::decode::ethernet::Frame;
use ixflow::decode::{
    CountersSample, DataSource, Datagram, FlowSample, Interface, InterfaceCounters, PortCounters,
    SAMPLES_MAX, Visitor,
};
use ixflow::ixp::{IpProtocol, Mac};
use ixflow::loss::Loss;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

// What a datagram yields
// ======================

/// What the visitor was told, in a form that outlives the datagram.
#[derive(Clone, PartialEq, Debug)]
enum Event {
    Flow(Value),
    Counters(CountersSample),
    Refused(Loss, u64),
}

#[derive(Default)]
struct Recorder(Vec<Event>);

impl Visitor for Recorder {
    fn flow_sample(&mut self, sample: &FlowSample<'_>) {
        self.0.push(Event::Flow(flow_value(sample)));
    }

    fn counters_sample(&mut self, sample: &CountersSample) {
        self.0.push(Event::Counters(*sample));
    }

    fn refused(&mut self, loss: Loss, times: u64) {
        self.0.push(Event::Refused(loss, times));
    }
}

fn visit(datagram: &[u8]) -> Result<Vec<Event>, Loss> {
    let mut recorder = Recorder::default();
    Datagram::parse(datagram)?.visit(&mut recorder);
    Ok(recorder.0)
}

/// The events of a datagram whose header is whole.
fn events(datagram: &[u8]) -> Vec<Event> {
    visit(datagram).expect("the header is whole")
}

fn mac_text(mac: Mac) -> String {
    mac.to_string().replace(':', "")
}

/// A flow sample under the names of expected.jsonl.
fn flow_value(sample: &FlowSample<'_>) -> Value {
    let raw = sample.raw_packet_header.map(|raw| {
        let frame = if raw.protocol == 1 { Frame::parse(raw.header).ok() } else { None };
        let eth = frame.map(|frame| {
            json!({
                "dst": mac_text(frame.destination),
                "src": mac_text(frame.source),
                "tags": frame.tags().map(|tag| tag.as_u16()).collect::<Vec<_>>(),
                "etype": format!("{:04x}", frame.ether_type),
                "ip": frame.protocol.map(IpProtocol::name),
            })
        });
        json!({
            "proto": raw.protocol,
            "frame": raw.frame_length_bytes,
            "stripped": raw.stripped_bytes,
            "hlen": raw.header.len(),
            "eth": eth,
        })
    });
    let ethernet = sample.sampled_ethernet.map(|ethernet| {
        json!({
            "eth_len": ethernet.frame_length_bytes,
            "src": mac_text(ethernet.source),
            "dst": mac_text(ethernet.destination),
            "etype": format!("{:x}", ethernet.ether_type),
        })
    });
    let switch = sample.extended_switch.map(
        |switch| json!({ "src_vlan": switch.source_vlan, "dst_vlan": switch.destination_vlan }),
    );
    json!({
        "seq": sample.sequence_number(),
        "src_type": sample.data_source().class,
        "src_idx": sample.data_source().index,
        "rate": sample.sampling_rate(),
        "pool": sample.sample_pool(),
        "drops": sample.drops(),
        "in_fmt": sample.input().format,
        "in": sample.input().value,
        "out_fmt": sample.output().format,
        "out": sample.output().value,
        "raw": raw,
        "ethernet": ethernet,
        "switch": switch,
    })
}

// Datagrams by hand
// =================

/// Numbers as XDR.
fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("test data are short")
}

/// A sample or a record: format, length, content, padding.
fn block(format: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = [words(&[format, length_of(content)]), content.to_vec()].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn datagram_announcing(count: u32, samples: &[Vec<u8>]) -> Vec<u8> {
    let header = words(&[5, 1, 0xc000_0201, 7, 42, 1000, count]);
    [header, samples.concat()].concat()
}

fn datagram(samples: &[Vec<u8>]) -> Vec<u8> {
    datagram_announcing(u32::try_from(samples.len()).expect("test data are short"), samples)
}

/// The content of a flow sample that announces `count` records.
fn flow_content(sequence_number: u32, count: u32, records: &[Vec<u8>]) -> Vec<u8> {
    let fields = words(&[sequence_number, 0x0200_0003, 2048, 4096, 1, 3, 0x8000_0004, count]);
    [fields, records.concat()].concat()
}

fn flow(sequence_number: u32, records: &[Vec<u8>]) -> Vec<u8> {
    let count = u32::try_from(records.len()).expect("test data are short");
    block(1, &flow_content(sequence_number, count, records))
}

fn raw(frame_length: u32, header: &[u8]) -> Vec<u8> {
    block(1, &[words(&[1, frame_length, 4, length_of(header)]), header.to_vec()].concat())
}

const ADDRESSES: [u8; 12] =
    [0x00, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x00, 0x11, 0x22, 0x33, 0x44, 0x55];

/// An Ethernet header with what follows the addresses.
fn ethernet(behind: &[u8]) -> Vec<u8> {
    [&ADDRESSES, behind].concat()
}

fn good(sequence_number: u32) -> Vec<u8> {
    flow(sequence_number, &[raw(1000, &ethernet(&[0x81, 0, 0, 10, 8, 0, 0x45]))])
}

fn refused(loss: Loss) -> Event {
    Event::Refused(loss, 1)
}

/// The sequence numbers of the flow samples.
fn sequence_numbers(events: &[Event]) -> Vec<u64> {
    let number = |event: &Event| match event {
        Event::Flow(flow) => flow["seq"].as_u64(),
        _ => None,
    };
    events.iter().filter_map(number).collect()
}

/// A faulty sample between good ones costs itself and nothing else.
fn assert_costs_itself(bad: Vec<u8>, loss: Loss) {
    let found = events(&datagram(&[good(1), bad, good(3)]));
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found[1], refused(loss));
    assert_eq!(sequence_numbers(&found), [1, 3]);
}

#[test]
fn datagram_headers() {
    let v6 = [words(&[5, 2]), (0..16).collect(), words(&[1, 2, 3, 0])].concat();
    let header = Datagram::parse(&v6).expect("the header is whole").header;
    let address: Ipv6Addr = "1:203:405:607:809:a0b:c0d:e0f".parse().expect("an address");
    assert_eq!(header.agent_address, IpAddr::V6(address));
    assert_eq!(header.sub_agent_id, 1);
    assert_eq!(header.sequence_number, 2);
    assert_eq!(header.uptime_millis, 3);
    assert_eq!(header.sample_count, 0);

    for whole in [v6, datagram(&[])] {
        for end in 0..whole.len() {
            assert_eq!(visit(&whole[..end]), Err(Loss::DatagramTruncated), "{end} bytes");
        }
        assert_eq!(visit(&whole), Ok(vec![]));
    }
    for version in [0, 2, 4, 6, 0x0005_0001] {
        assert_eq!(visit(&words(&[version, 1, 1])), Err(Loss::WrongVersion), "{version}");
        assert_eq!(visit(&words(&[version])), Err(Loss::WrongVersion), "{version}");
    }
    for address_type in [0, 3, 0x0100_0000] {
        assert_eq!(visit(&words(&[5, address_type])), Err(Loss::BadAgentAddress));
    }
}

#[test]
fn compact_and_expanded_forms_say_the_same() {
    let records = raw(1000, &ethernet(&[8, 0]));
    let compact = flow(9, std::slice::from_ref(&records));
    let fields = words(&[9, 2, 3, 2048, 4096, 1, 0, 3, 2, 4, 1]);
    let expanded = block(3, &[fields, records].concat());
    let found = events(&datagram(&[compact, expanded]));
    let [Event::Flow(compact), Event::Flow(expanded)] = &found[..] else {
        panic!("two flow samples: {found:?}");
    };
    assert_eq!(compact, expanded);
    assert_eq!(compact["src_type"], 2);
    assert_eq!(compact["src_idx"], 3);
    assert_eq!(compact["out_fmt"], 2);
    assert_eq!(compact["out"], 4);

    let found = events(&datagram(&[
        block(2, &words(&[9, 0x0200_0003, 0])),
        block(4, &words(&[9, 2, 3, 0])),
    ]));
    let data_source = DataSource { class: 2, index: 3 };
    let counters = CountersSample { sequence_number: 9, data_source, interface: None };
    assert_eq!(found, [Event::Counters(counters), Event::Counters(counters)]);
}

#[test]
fn expanded_fields_use_all_their_bits() {
    struct Seen(Vec<(DataSource, Interface, Interface)>);
    impl Visitor for Seen {
        fn flow_sample(&mut self, sample: &FlowSample<'_>) {
            self.0.push((sample.data_source(), sample.input(), sample.output()));
        }
        fn counters_sample(&mut self, _: &CountersSample) {}
        fn refused(&mut self, _: Loss, _: u64) {}
    }
    let index = 0x8123_4567;
    let mut seen = Seen(vec![]);
    let sample = block(3, &words(&[1, 0, index, 1, 1, 0, 0, index, 1, index, 0]));
    Datagram::parse(&datagram(&[sample])).expect("the header is whole").visit(&mut seen);
    let input = Interface { format: 0, value: index };
    let output = Interface { format: 1, value: index };
    assert_eq!(seen.0, [(DataSource { class: 0, index }, input, output)]);
}

#[test]
fn the_first_record_of_a_kind_counts() {
    let mac = |last: u8| vec![0, 1, 2, 3, 4, last, 0, 0];
    let sampled_ethernet = |length: u32, last: u8| {
        block(2, &[words(&[length]), mac(last), mac(last + 1), words(&[0x86dd])].concat())
    };
    let records = [
        block(1001, &words(&[10, 0, 11, 0])),
        sampled_ethernet(100, 5),
        raw(1000, &ethernet(&[8, 0])),
        // Short, but not read: its kind was seen.
        block(1001, &words(&[20])),
        raw(500, &ethernet(&[0x86, 0xdd])),
        sampled_ethernet(200, 7),
    ];
    let found = events(&datagram(&[flow(1, &records)]));
    let [Event::Flow(sample)] = &found[..] else { panic!("one flow sample: {found:?}") };
    assert_eq!(sample["switch"], json!({ "src_vlan": 10, "dst_vlan": 11 }));
    assert_eq!(sample["raw"]["frame"], 1000);
    assert_eq!(sample["raw"]["eth"]["ip"], "ipv4");
    let ethernet =
        json!({ "eth_len": 100, "src": "000102030405", "dst": "000102030406", "etype": "86dd" });
    assert_eq!(sample["ethernet"], ethernet);
}

#[test]
fn a_truncated_sample_costs_itself() {
    for length in 0..32 {
        assert_costs_itself(block(1, &flow_content(2, 0, &[])[..length]), Loss::SampleTruncated);
    }
    for length in 0..44 {
        assert_costs_itself(block(3, &[0; 44][..length]), Loss::SampleTruncated);
    }
    for length in 0..12 {
        assert_costs_itself(block(2, &[0; 12][..length]), Loss::SampleTruncated);
    }
    for length in 0..16 {
        assert_costs_itself(block(4, &[0; 16][..length]), Loss::SampleTruncated);
    }
}

#[test]
fn a_record_overrun_costs_its_sample() {
    let record = raw(1000, &ethernet(&[8, 0]));
    // The last record cut anywhere, but for its padding.
    for end in 0..record.len() - 2 {
        let content = flow_content(2, 1, &[record[..end].to_vec()]);
        assert_costs_itself(block(1, &content), Loss::RecordOverrun);
    }
    // More records announced than there are bytes.
    for count in [2, 3, u32::MAX] {
        let content = flow_content(2, count, std::slice::from_ref(&record));
        assert_costs_itself(block(1, &content), Loss::RecordOverrun);
    }
    // A length that would wrap a 32-bit sum.
    let content = flow_content(2, 1, &[words(&[0x0000_7fff, u32::MAX])]);
    assert_costs_itself(block(1, &content), Loss::RecordOverrun);
}

#[test]
fn a_truncated_record_costs_its_sample() {
    let known = [(1, 16), (2, 24), (1001, 16)];
    for (format, length) in known {
        for short in 0..length {
            let record = block(format, &[0; 32][..short]);
            assert_costs_itself(flow(2, &[record]), Loss::RecordTruncated);
        }
        let found = events(&datagram(&[flow(2, &[block(format, &[0; 32][..length])])]));
        assert_eq!(sequence_numbers(&found), [2], "{length} bytes of record {format}");
    }
    for header_length in [65, 68, u32::MAX] {
        let content = [words(&[1, 1000, 4, header_length]), vec![0; 64]].concat();
        assert_costs_itself(flow(2, &[block(1, &content)]), Loss::RecordTruncated);
    }
}

#[test]
fn unknown_formats_are_skipped() {
    let enterprise = 9 << 12;
    let unread = [6, enterprise | 1, enterprise | 3, 0x1000 | 5].map(|format| block(format, &[1]));
    let found = events(&datagram(&[unread.concat(), good(1)]));
    assert_eq!(found, [], "two announced, and both are among the unread");
    let found = events(&datagram_announcing(5, &[unread.concat(), good(1)]));
    assert_eq!(sequence_numbers(&found), [1]);
    assert_eq!(found.len(), 1);

    let plain = events(&datagram(&[flow(1, &[raw(1000, &ethernet(&[8, 0]))])]));
    let unread = [3, 1002, enterprise | 1, enterprise | 1001].map(|format| block(format, &[1]));
    let records = [&unread[..], &[raw(1000, &ethernet(&[8, 0]))]].concat();
    assert_eq!(events(&datagram(&[flow(1, &records)])), plain);
}

#[test]
fn discarded_packets_are_counted_and_not_read() {
    assert_costs_itself(block(5, &[]), Loss::Discarded);
    assert_costs_itself(block(5, &[0xff; 50]), Loss::Discarded);
}

#[test]
fn padding_may_be_missing_at_the_very_end() {
    let odd = flow(1, &[raw(1000, &ethernet(&[8, 0, 0x45]))]);
    assert_eq!(odd.len() % 4, 0);
    let content = &odd.clone()[8..odd.len() - 1];
    let unpadded = [words(&[1, length_of(content)]), content.to_vec()].concat();
    assert_eq!(events(&datagram(&[unpadded])), events(&datagram(&[odd])));
    // Not at the very end, it is there.
    let found = events(&datagram(&[block(1, content), good(2)]));
    assert_eq!(sequence_numbers(&found), [1, 2]);
}

#[test]
fn bytes_behind_the_records_and_behind_the_samples_are_left_alone() {
    let content = [flow_content(1, 1, &[raw(1000, &ethernet(&[8, 0]))]), vec![0xff; 4]].concat();
    let found = events(&datagram(&[block(1, &content), good(2)]));
    assert_eq!(sequence_numbers(&found), [1, 2]);
    assert_eq!(found.len(), 2);
    let found = events(&datagram_announcing(1, &[good(1), good(2)]));
    assert_eq!(found.len(), 1);
}

#[test]
fn a_sample_overrun_costs_what_is_behind_it() {
    let whole = datagram(&[good(1), good(2), good(3), good(4)]);
    let second = 28 + good(1).len();
    for end in second..second + good(2).len() {
        let found = events(&whole[..end]);
        assert_eq!(sequence_numbers(&found), [1]);
        let lost = if end < second + 8 {
            vec![Event::Refused(Loss::SampleMissing, 3)]
        } else {
            vec![refused(Loss::SampleOverrun), Event::Refused(Loss::SampleMissing, 2)]
        };
        // The last byte of the sample is padding, which may be missing.
        if end < second + good(2).len() - 1 {
            assert_eq!(found[1..], lost, "{end} bytes");
        }
    }
}

#[test]
fn a_lying_count_is_not_believed() {
    let found = events(&datagram_announcing(u32::MAX, &[good(1)]));
    assert_eq!(sequence_numbers(&found), [1]);
    assert_eq!(found[1..], [Event::Refused(Loss::SampleMissing, 8187)]);
    // The shortest samples there are, in the longest datagram there is.
    let full = datagram_announcing(u32::MAX, &vec![words(&[5, 0]); (65_507 - 28) / 8]);
    let told: u64 = events(&full)
        .iter()
        .map(|event| match event {
            Event::Refused(_, times) => *times,
            _ => 0,
        })
        .sum();
    assert_eq!(told, u64::from(SAMPLES_MAX));
}

// Real datagrams
// ==============

/// The captures, when they are beside the repository.
fn captures() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/captures");
    let present = folder.join("expected.jsonl").exists();
    if !present {
        eprintln!("skipped: no captures at {}", folder.display());
    }
    present.then_some(folder)
}

/// The datagrams of a file: UDP payloads of a pcap file, or the file itself.
fn datagrams(path: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).expect("a file of the captures");
    if path.extension().is_none_or(|extension| extension != "pcap") {
        return vec![bytes];
    }
    assert_eq!(bytes[..4], [0xd4, 0xc3, 0xb2, 0xa1], "little-endian pcap with microseconds");
    assert_eq!(bytes[20..24], [1, 0, 0, 0], "Ethernet");
    let mut rest = &bytes[24..];
    let mut found = vec![];
    while let Some((record, behind)) = rest.split_first_chunk::<16>() {
        let captured = u32::from_le_bytes([record[8], record[9], record[10], record[11]]);
        let (frame, behind) = behind.split_at(captured as usize);
        found.push(udp_payload(frame));
        rest = behind;
    }
    found
}

/// What UDP's own length says is the payload.
fn udp_payload(frame: &[u8]) -> Vec<u8> {
    let udp = match frame[12..14] {
        [0x08, 0x00] => &frame[14 + usize::from(frame[14] & 0xf) * 4..],
        [0x86, 0xdd] => &frame[14 + 40..],
        _ => panic!("neither IPv4 nor IPv6"),
    };
    let length = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
    udp[8..length].to_vec()
}

/// An address as expected.jsonl writes it: IPv6 in 32 digits.
fn address_text(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("{:032x}", address.to_bits()),
    }
}

/// What expected.jsonl says of a sample, as the event that decode should yield.
fn expected_event(sample: &Value) -> Option<Event> {
    assert_eq!(sample["ent"], 0, "no sample of an enterprise in the captures");
    match sample["fmt"].as_u64() {
        Some(1 | 3) if sample["error"] == "overrun" => Some(refused(Loss::RecordOverrun)),
        Some(1 | 3) => Some(Event::Flow(expected_flow(sample))),
        // The other decoder did not read on.
        Some(2 | 4) => Some(Event::Counters(CountersSample {
            sequence_number: 0,
            data_source: DataSource { class: 0, index: 0 },
            interface: None,
        })),
        Some(5) => Some(refused(Loss::Discarded)),
        _ => None,
    }
}

fn expected_flow(sample: &Value) -> Value {
    assert!(sample["error"].is_null(), "{sample}");
    let record = |format: u64| {
        let records = sample["records"].as_array().expect("a flow sample has records");
        let of_format = |record: &&Value| record["ent"] == 0 && record["fmt"] == format;
        records.iter().find(of_format).unwrap_or(&Value::Null)
    };
    let pick = |from: &Value, keys: &[&str]| match from {
        Value::Null => Value::Null,
        _ => keys.iter().map(|key| (key.to_string(), from[key].clone())).collect(),
    };
    let raw_record = record(1);
    let mut raw = pick(raw_record, &["proto", "frame", "stripped", "hlen"]);
    if !raw.is_null() {
        let mut eth = pick(&raw_record["eth"], &["dst", "src", "etype"]);
        if !eth.is_null() {
            let tags = raw_record["eth"]["tags"].as_array().expect("tags");
            let ids = tags.iter().map(|tag| tag["vid"].clone());
            eth["tags"] = ids.filter(|id| *id != 0 && *id != 4095).collect();
            eth["ip"] = match eth["etype"].as_str() {
                Some("0800") => "ipv4".into(),
                Some("86dd") => "ipv6".into(),
                _ => Value::Null,
            };
        }
        raw["eth"] = eth;
    }
    let mut flow = pick(
        sample,
        &["seq", "src_type", "src_idx", "rate", "pool", "drops", "in_fmt", "in", "out_fmt", "out"],
    );
    flow["raw"] = raw;
    flow["ethernet"] = pick(record(2), &["eth_len", "src", "dst", "etype"]);
    flow["switch"] = pick(record(1001), &["src_vlan", "dst_vlan"]);
    flow
}

#[test]
fn captures_read_as_an_independent_decoder_reads_them() {
    let Some(folder) = captures() else { return };
    let expected = fs::read_to_string(folder.join("expected.jsonl")).expect("it exists");
    let mut files: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    let mut compared: BTreeSet<(String, usize)> = BTreeSet::new();
    for line in expected.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON in each line");
        let file = line["file"].as_str().expect("a name").to_owned();
        let index = usize::try_from(line["dgram"].as_u64().expect("a number")).expect("small");
        let name = format!("{file}, datagram {index}");
        let datagrams = files.entry(file.clone()).or_insert_with(|| datagrams(&folder.join(&file)));
        let bytes = &datagrams[index];
        compared.insert((file, index));

        let expected = &line["d"];
        assert_eq!(expected["len"], bytes.len(), "{name}");
        let datagram = match Datagram::parse(bytes) {
            Ok(datagram) => datagram,
            Err(loss) => {
                let reason = if expected["version"] != 5 {
                    Loss::WrongVersion
                } else {
                    assert_eq!(expected["error"], "header:EOFError", "{name}");
                    Loss::DatagramTruncated
                };
                assert_eq!(loss, reason, "{name}");
                continue;
            }
        };
        let agent = address_text(datagram.header.agent_address);
        assert_eq!(expected["agent"], agent, "{name}");
        assert_eq!(expected["sub_agent"], datagram.header.sub_agent_id, "{name}");
        assert_eq!(expected["seq"], datagram.header.sequence_number, "{name}");
        assert_eq!(expected["uptime"], datagram.header.uptime_millis, "{name}");
        assert_eq!(expected["n_samples"], datagram.header.sample_count, "{name}");

        let samples = expected["samples"].as_array().expect("samples");
        let mut wanted: Vec<Event> = samples.iter().filter_map(expected_event).collect();
        match expected["error"].as_str() {
            None => {}
            Some("truncated at sample 0") => wanted.push(refused(Loss::SampleOverrun)),
            Some(error) => panic!("{name}: {error}"),
        }
        let found: Vec<Event> = events(bytes)
            .into_iter()
            .map(|event| match event {
                Event::Counters(_) => Event::Counters(CountersSample {
                    sequence_number: 0,
                    data_source: DataSource { class: 0, index: 0 },
                    interface: None,
                }),
                other => other,
            })
            .collect();
        assert_eq!(found, wanted, "{name}");
    }
    for (file, datagrams) in &files {
        for index in 0..datagrams.len() {
            assert!(compared.contains(&(file.clone(), index)), "{file} {index} is not expected");
        }
    }
    let on_disk: BTreeSet<String> = fs::read_dir(&folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .flat_map(|origin| fs::read_dir(origin).expect("a folder"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension().is_some_and(|kind| kind == "bin" || kind == "dump" || kind == "pcap")
        })
        .map(|path| {
            let name = path.strip_prefix(&folder).expect("inside the folder");
            name.to_str().expect("plain names").to_owned()
        })
        .collect();
    let mut seen: BTreeSet<String> = files.into_keys().collect();
    for whole_frame in ["SFlowTestPacket1_L17.bin", "SFlowTestPacket2_L115.bin"] {
        let name = format!("gopacket_gopacket/{whole_frame}");
        let bytes = fs::read(folder.join(&name)).expect("a file of the captures");
        assert_eq!(visit(&bytes), Err(Loss::WrongVersion), "{name}");
        seen.insert(name);
    }
    assert_eq!(seen, on_disk);
}

/// What the independent decoders print of generic interface counters.
#[derive(PartialEq, Debug)]
struct Port {
    if_index: u64,
    if_type: u64,
    speed_bits: u64,
    is_up: bool,
    /// Octets, unicast, multicast and broadcast packets, in and out.
    received: [u64; 4],
    sent: [u64; 4],
}

fn ports(datagram: &[u8]) -> Vec<Port> {
    let direction = |counters: PortCounters| {
        let PortCounters { octets, unicast_packets, multicast_packets, broadcast_packets } =
            counters;
        let packets = [unicast_packets, multicast_packets, broadcast_packets].map(u64::from);
        [octets, packets[0], packets[1], packets[2]]
    };
    // Datagrams of other versions have none.
    let events = visit(datagram).unwrap_or_default();
    let interfaces = events.into_iter().filter_map(|event| match event {
        Event::Counters(sample) => sample.interface,
        _ => None,
    });
    interfaces
        .map(|port| Port {
            if_index: port.if_index.into(),
            if_type: port.if_type.into(),
            speed_bits: port.speed_bits,
            is_up: port.is_up,
            received: direction(port.received),
            sent: direction(port.sent),
        })
        .collect()
}

/// The number behind a word of tcpdump's text.
fn number_behind(text: &str, word: &str) -> u64 {
    let behind = text.split_once(word).expect("the word is there").1.trim_start();
    let digits = behind.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().expect("a number")
}

#[test]
fn interface_counters_read_as_tcpdump_reads_them() {
    let Some(folder) = captures() else { return };
    for (name, least) in [("sflow_multiple_counter_30_pdus", 100), ("sflow-print-v6", 40)] {
        let path = folder.join("the-tcpdump-group_tcpdump").join(name);
        let text = fs::read_to_string(path.with_extension("out")).expect("tcpdump's text");
        let records = text.split("Generic counter (1) length 88").skip(1);
        let expected: Vec<Port> = records
            .map(|record| {
                let direction = |way: &str| {
                    let at = record.find(&format!("{way} octets")).expect("both directions");
                    ["octets", "unicast pkts", "multicast pkts", "broadcast pkts"]
                        .map(|word| number_behind(&record[at..], word))
                };
                Port {
                    if_index: number_behind(record, "ifindex"),
                    if_type: number_behind(record, "iftype"),
                    speed_bits: number_behind(record, "ifspeed"),
                    is_up: record.split_once("operstatus: ").expect("it").1.starts_with("up"),
                    received: direction("In"),
                    sent: direction("Out"),
                }
            })
            .collect();
        let found: Vec<Port> = datagrams(&path.with_extension("pcap"))
            .iter()
            .flat_map(|datagram| ports(datagram))
            .collect();
        assert!(found.len() >= least, "{name}: {}", found.len());
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn interface_counters_read_as_telegraf_reads_them() {
    let Some(folder) = captures() else { return };
    for (file, expected) in [
        ("sflow_issue_18876_message.bin", "sflow_issue_18876_expected.out"),
        ("sflow_v5_example_sflow_v5.bin", "sflow_v5_example_expected.out"),
    ] {
        let folder = folder.join("influxdata_telegraf");
        let text = fs::read_to_string(folder.join(expected)).expect("telegraf's text");
        let field = |name: &str| number_behind(&text, &format!("{name}="));
        let direction = |way: &str| {
            ["bytes", "unicast_packets_total", "mcast_packets_total", "broadcast_packets_total"]
                .map(|name| field(&format!(",{way}_{name}")))
        };
        let port = Port {
            if_index: field(",interface"),
            if_type: field("interface_type"),
            speed_bits: field("speed"),
            is_up: text.contains("status=\"up\""),
            received: direction("in"),
            sent: direction("out"),
        };
        assert_eq!(ports(&fs::read(folder.join(file)).expect("a capture")), [port], "{file}");
    }
}

/// A record of generic interface counters, with numbers that tell every field apart.
fn interface_record() -> Vec<u8> {
    block(1, &words(&(1..=22).collect::<Vec<_>>()))
}

#[test]
fn a_counters_sample_is_read_by_length() {
    let unknown = block(2, &[0xff; 52]);
    let second = block(1, &[0xff; 88]);
    let records = [unknown, interface_record(), second].concat();
    let compact = [words(&[9, 0x0000_0003, 3]), records.clone()].concat();
    let expanded = [words(&[9, 0, 3, 3]), records].concat();
    let found = events(&datagram(&[block(2, &compact), block(4, &expanded), good(1)]));
    let counters = |from: u32| PortCounters {
        octets: u64::from(from) << 32 | u64::from(from + 1),
        unicast_packets: from + 2,
        multicast_packets: from + 3,
        broadcast_packets: from + 4,
    };
    let interface = InterfaceCounters {
        if_index: 1,
        if_type: 2,
        speed_bits: 3 << 32 | 4,
        is_up: true,
        received: counters(7),
        sent: counters(15),
    };
    let sample = CountersSample {
        sequence_number: 9,
        data_source: DataSource { class: 0, index: 3 },
        interface: Some(interface),
    };
    assert_eq!(found[..2], [Event::Counters(sample), Event::Counters(sample)]);
    assert_eq!(sequence_numbers(&found), [1]);
}

#[test]
fn a_fault_in_a_counters_sample_costs_it_alone() {
    let sample =
        |count: u32, records: &[u8]| block(2, &[words(&[9, 3, count]), records.to_vec()].concat());
    let record = interface_record();
    for end in 0..record.len() {
        assert_costs_itself(sample(1, &record[..end]), Loss::RecordOverrun);
    }
    for count in [2, u32::MAX] {
        assert_costs_itself(sample(count, &record), Loss::RecordOverrun);
    }
    for short in 0..88 {
        assert_costs_itself(sample(1, &block(1, &vec![0; short])), Loss::RecordTruncated);
    }
}

// The incumbent
// =============

/// How decode compares to sflowtool 6.11 on a datagram of incumbent-edge.json.
enum Verdict {
    /// Each FLOW line is a flow sample that decode reads alike.
    Same,
    /// What decode reads instead, as FLOW lines, and why.
    Differs(&'static str, &'static [&'static str]),
}

use Verdict::{Differs, Same};

/// The name of the case, the verdict, and what decode refuses.
type Case = (&'static str, Verdict, &'static [(Loss, u64)]);

/// The fields of a FLOW line that decode answers for: agent, input, output, source, destination,
/// EtherType, frame length, sampling rate. The VLAN is a matter of the table.
fn flow_line(agent: IpAddr, flow: &Value) -> String {
    let frame = &flow["raw"]["eth"];
    // An 802.3 frame has its length there, for which sflowtool prints 0.
    let ether_type = match frame["etype"].as_str() {
        Some(digits) if digits > "05dc" => digits,
        _ => "0000",
    };
    let text = |value: &Value, absent: &str| value.as_str().unwrap_or(absent).to_owned();
    [
        address_text(agent),
        flow["in"].to_string(),
        flow["out"].to_string(),
        text(&frame["src"], "000000000000"),
        text(&frame["dst"], "000000000000"),
        format!("0x{ether_type}"),
        flow["raw"]["frame"].as_u64().unwrap_or(0).to_string(),
        flow["rate"].to_string(),
    ]
    .join(",")
}

fn incumbent_line(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split(',').collect();
    if fields[0] != "FLOW" {
        return None;
    }
    let agent = address_text(fields[1].parse().expect("an address"));
    let [input, output, source, destination, ether_type] = fields[2..7] else { return None };
    let line = [&agent, input, output, source, destination, ether_type, fields[17], fields[19]];
    Some(line.join(","))
}

/// The line of most cases.
const GOOD: &str = "192.0.2.1,3,4,001122334455,00aabbccddee,0x0800,1000,2048";

/// Every case of incumbent-edge.json, by name.
const CASES: &[Case] = &[
    ("tagged 10", Same, &[]),
    ("untagged, no ext_switch", Same, &[]),
    ("ext_switch 20 BEFORE header tagged 10", Same, &[]),
    ("ext_switch 20 AFTER header tagged 10", Same, &[]),
    ("ext_switch 20 BEFORE header untagged", Same, &[]),
    ("priority tag (vid 0) with ext_switch 20 BEFORE", Same, &[]),
    ("priority tag (vid 0) with ext_switch 20 AFTER", Same, &[]),
    ("priority tag vid 0 alone", Same, &[]),
    ("tag 10 with pcp 7 and dei", Same, &[]),
    ("QinQ 88a8:100 / 8100:10", Same, &[]),
    ("QinQ 8100:100 / 8100:10", Same, &[]),
    ("QinQ 9100:100 / 8100:10", Same, &[]),
    ("88a8:100 only", Same, &[]),
    ("triple 88a8:100/8100:10/8100:7", Same, &[]),
    ("unknown tpid 0x9999", Same, &[]),
    ("ext_switch in=20 out=30 untagged", Same, &[]),
    ("ext_switch in=0xffffffff", Same, &[]),
    ("ext_switch in=5000 (>4095)", Same, &[]),
    ("ext_switch only, no header", Same, &[]),
    ("no records at all", Same, &[]),
    ("header proto 11 (IPv4)", Same, &[]),
    ("header proto 12 (IPv6)", Same, &[]),
    ("header proto 7 (PPP)", Same, &[]),
    (
        "sampled_ethernet only + ext_switch",
        Differs(
            "a sampled Ethernet record is handed on beside the header, not in its place",
            &["192.0.2.1,3,4,000000000000,000000000000,0x0000,0,2048"],
        ),
        &[],
    ),
    (
        "header then sampled_ethernet",
        Differs(
            "the raw packet header is the frame; sflowtool lets the later record overwrite it",
            &[GOOD],
        ),
        &[],
    ),
    (
        "header then sampled_ipv4 (len 77)",
        Differs(
            "the frame length is the raw packet header's; sflowtool overwrites it with the IP length",
            &[GOOD],
        ),
        &[],
    ),
    (
        "header then sampled_ipv6 (len 88)",
        Differs(
            "the frame length is the raw packet header's; sflowtool overwrites it with the IP length",
            &[GOOD],
        ),
        &[],
    ),
    (
        "header then l2 tunnel out",
        Differs(
            "a tunnel record describes another frame; sflowtool takes it for the sampled one",
            &[GOOD],
        ),
        &[],
    ),
    (
        "two header records (tag 10 fl 1000; untagged fl 500)",
        Differs("of several records of one kind the first counts, sflowtool mixes both", &[GOOD]),
        &[],
    ),
    ("header 0 bytes", Same, &[]),
    ("header 12 bytes", Same, &[]),
    ("header 13 bytes (3 pad)", Same, &[]),
    (
        "header 14 bytes untagged",
        Differs("the EtherType is there; sflowtool wants 4 bytes of the packet behind it", &[GOOD]),
        &[],
    ),
    (
        "header 17 bytes tagged (tag cut)",
        Differs(
            "a header that ends before the EtherType is no frame (header_truncated)",
            &["192.0.2.1,3,4,000000000000,000000000000,0x0000,1000,2048"],
        ),
        &[],
    ),
    (
        "header 18 bytes tagged",
        Differs("the EtherType is there; sflowtool wants bytes of the packet behind it", &[GOOD]),
        &[],
    ),
    (
        "header 19 bytes tagged",
        Differs("the EtherType is there; sflowtool wants bytes of the packet behind it", &[GOOD]),
        &[],
    ),
    ("header 20 bytes tagged", Same, &[]),
    ("header 20 bytes tagged ipv6", Same, &[]),
    ("ethertype 0800 but version nibble 6", Same, &[]),
    ("ethertype 86dd but version nibble 4", Same, &[]),
    ("802.3 SNAP 0800", Same, &[]),
    ("802.3 SNAP oui!=0", Same, &[]),
    (
        "802.2 06 06 03 (IP over LLC)",
        Differs(
            "no agent is known to sample IP over LLC without SNAP: the rule is EtherType or SNAP",
            &["192.0.2.1,3,4,001122334455,00aabbccddee,0x0000,1000,2048"],
        ),
        &[],
    ),
    ("802.2 STP 42 42 03", Same, &[]),
    ("ethertype 0x0600 not ipx", Same, &[]),
    ("MPLS 8847", Same, &[]),
    ("PPPoE 8864", Same, &[]),
    ("ARP", Same, &[]),
    ("expanded flow sample", Same, &[]),
    ("discarded packet (event 5) then good", Same, &[(Loss::Discarded, 1)]),
    ("counter sample then good", Same, &[]),
    ("unknown enterprise sample then good", Same, &[]),
    ("unknown enterprise sample odd len 5 (8 padded) then good", Same, &[]),
    ("unknown record (ent 9) in sample", Same, &[]),
    (
        "good; ext_switch record len 20 (4 extra); good",
        Differs(
            "a record longer than its fields is read by its length; sflowtool loses the rest",
            &[GOOD, GOOD, GOOD],
        ),
        &[],
    ),
    (
        "good; ext_switch record len field 20 but 16 bytes; good",
        Differs("the fault costs its sample alone; sflowtool loses the rest", &[GOOD, GOOD]),
        &[(Loss::RecordOverrun, 1)],
    ),
    (
        "good; header record claims hl 200 of 64; good",
        Differs("the fault costs its sample alone; sflowtool loses the rest", &[GOOD, GOOD]),
        &[(Loss::RecordTruncated, 1)],
    ),
    (
        "good; header record len field too big by 4; good",
        Differs("the fault costs its sample alone; sflowtool loses the rest", &[GOOD, GOOD]),
        &[(Loss::RecordOverrun, 1)],
    ),
    (
        "good; sample length too long by 4 (trailing pad inside sample); good",
        Differs(
            "a sample longer than its records is read by its length; sflowtool loses the rest",
            &[GOOD, GOOD, GOOD],
        ),
        &[],
    ),
    (
        "good; sample len field +4 wrong, no bytes; good",
        Differs(
            "the second sample is whole, the third then starts 4 bytes late and has no known format",
            &[GOOD, GOOD],
        ),
        &[],
    ),
    ("sample count 3 but 2 present", Same, &[(Loss::SampleMissing, 1)]),
    ("sample count 1 but 2 present", Same, &[]),
    ("sample count 0 with data", Same, &[]),
    ("datagram cut in 2nd sample", Same, &[(Loss::SampleOverrun, 1)]),
    ("datagram cut by 2 bytes", Same, &[(Loss::SampleOverrun, 1)]),
    ("trailing garbage 6 bytes", Same, &[]),
    ("IPv6 agent", Same, &[]),
    ("agent type 0", Same, &[(Loss::BadAgentAddress, 1)]),
    ("agent type 3", Same, &[(Loss::BadAgentAddress, 1)]),
    ("ext_router nexthop type 1", Same, &[]),
    (
        "good; ext_router nexthop type 0 (12 bytes); good",
        Differs(
            "an extended router record is not read, so that it cannot be wrong; sflowtool loses the rest",
            &[GOOD, GOOD, GOOD],
        ),
        &[],
    ),
    ("rate 0", Same, &[]),
    (
        "rate 2^31",
        Differs(
            "a sampling rate is unsigned; sflowtool prints it signed",
            &["192.0.2.1,3,4,001122334455,00aabbccddee,0x0800,1000,2147483648"],
        ),
        &[],
    ),
    (
        "frame_len 2^32-1",
        Differs(
            "a frame length is unsigned; sflowtool prints it signed",
            &["192.0.2.1,3,4,001122334455,00aabbccddee,0x0800,4294967295,2048"],
        ),
        &[],
    ),
    ("stripped 8, fl 1000", Same, &[]),
    ("version 6", Same, &[(Loss::WrongVersion, 1)]),
    (
        "sFlow v4",
        Differs("sFlow v4 is another version: counted, not read", &[]),
        &[(Loss::WrongVersion, 1)],
    ),
    (
        "sFlow v4 no ext",
        Differs("sFlow v4 is another version: counted, not read", &[]),
        &[(Loss::WrongVersion, 1)],
    ),
    (
        "sFlow v2",
        Differs("sFlow v2 is another version: counted, not read", &[]),
        &[(Loss::WrongVersion, 1)],
    ),
    ("empty datagram (0 bytes)", Same, &[(Loss::DatagramTruncated, 1)]),
    ("3 bytes", Same, &[(Loss::DatagramTruncated, 1)]),
    ("vlan tunnel record", Same, &[]),
    ("upper-case-looking mac", Same, &[]),
    ("input port format: drop/multiple", Same, &[]),
];

fn from_hex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    let text = pairs.map(|pair| std::str::from_utf8(pair).expect("ASCII"));
    text.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal digits")).collect()
}

#[test]
fn incumbent_cases_are_the_same_or_differ_for_a_reason() {
    let Some(folder) = captures() else { return };
    let text = fs::read_to_string(folder.join("incumbent-edge.json")).expect("it exists");
    let captured: Vec<Value> = serde_json::from_str(&text).expect("a list");
    let names: Vec<&str> =
        captured.iter().map(|case| case["name"].as_str().expect("a name")).collect();
    assert_eq!(names, CASES.iter().map(|(name, ..)| *name).collect::<Vec<_>>());

    for (case, (name, verdict, refused)) in captured.iter().zip(CASES) {
        let bytes = from_hex(case["hex"].as_str().expect("text"));
        let printed = case["lines"].as_array().expect("a list");
        let theirs: Vec<String> = printed
            .iter()
            .filter_map(|line| incumbent_line(line.as_str().expect("text")))
            .collect();
        let (mut ours, mut lost) = (vec![], vec![]);
        match Datagram::parse(&bytes) {
            Err(loss) => lost.push((loss, 1)),
            Ok(datagram) => {
                for event in events(&bytes) {
                    match event {
                        Event::Flow(flow) => {
                            ours.push(flow_line(datagram.header.agent_address, &flow));
                        }
                        Event::Counters(_) => {}
                        Event::Refused(loss, times) => lost.push((loss, times)),
                    }
                }
            }
        }
        assert_eq!(lost, *refused, "{name}");
        match verdict {
            Same => assert_eq!(ours, theirs, "{name}"),
            Differs(why, lines) => {
                assert_eq!(ours, *lines, "{name}: {why}");
                assert_ne!(ours, theirs, "{name} is the same, though: {why}");
            }
        }
    }
}

// Arbitrary bytes
// ===============

/// How many samples of a datagram are skipped for their format, by a walk of its own; none of
/// those behind an overrun.
fn skipped(datagram: &[u8]) -> u64 {
    let address = if datagram[7] == 1 { 4 } else { 16 };
    let number = |at: usize| -> Option<u32> {
        let bytes = datagram.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().expect("4 bytes")))
    };
    let mut at = 8 + address + 16;
    let mut skipped = 0;
    for _ in 0..number(at - 4).expect("the header is whole").min(SAMPLES_MAX) {
        let (Some(format), Some(length)) = (number(at), number(at + 4)) else { break };
        let end = at + 8 + length as usize;
        if end > datagram.len() {
            break;
        }
        skipped += u64::from(!(1..=5).contains(&format));
        at = end.next_multiple_of(4).min(datagram.len());
    }
    skipped
}

/// Each announced sample ends as exactly one of: visited, refused, skipped.
fn assert_accounted(bytes: &[u8]) {
    let Ok(datagram) = Datagram::parse(bytes) else { return };
    let told: u64 = events(bytes)
        .iter()
        .map(|event| match event {
            Event::Refused(_, times) => *times,
            _ => 1,
        })
        .sum();
    let announced = datagram.header.sample_count.min(SAMPLES_MAX);
    assert_eq!(told + skipped(bytes), u64::from(announced));
}

fn any_header() -> impl Strategy<Value = Vec<u8>> {
    let tpid = prop::sample::select(vec![0x8100u16, 0x88a8, 0x9100, 0x9200, 0x9300]);
    let tags = vec((tpid, any::<u16>()), 0..12);
    let ether_type = prop_oneof![
        Just(vec![0x08, 0x00]),
        Just(vec![0x86, 0xdd]),
        Just(vec![0x00, 0x40, 0xaa, 0xaa, 0x03, 0, 0, 0, 0x08, 0x00]),
        vec(any::<u8>(), 0..10),
    ];
    (tags, ether_type, vec(any::<u8>(), 0..20)).prop_map(|(tags, ether_type, behind)| {
        let tags = tags
            .iter()
            .flat_map(|(tpid, control)| [tpid.to_be_bytes(), control.to_be_bytes()].concat());
        [ADDRESSES.to_vec(), tags.collect(), ether_type, behind].concat()
    })
}

fn any_record() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (any::<u32>(), any_header()).prop_map(|(length, header)| raw(length, &header)),
        1 => vec(any::<u8>(), 24).prop_map(|content| block(2, &content)),
        1 => vec(any::<u8>(), 16..24).prop_map(|content| block(1001, &content)),
        1 => (any::<u32>(), vec(any::<u8>(), 0..40))
            .prop_map(|(format, content)| block(format, &content)),
    ]
}

fn any_sample() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (any::<u32>(), vec(any_record(), 0..4))
            .prop_map(|(number, records)| flow(number, &records)),
        1 => (vec(any::<u32>(), 10), vec(any_record(), 0..3)).prop_map(|(fields, records)| {
            let count = u32::try_from(records.len()).expect("few records");
            block(3, &[words(&fields), words(&[count]), records.concat()].concat())
        }),
        1 => vec(any::<u8>(), 12..60).prop_map(|content| block(2, &content)),
        1 => vec(any::<u8>(), 16..60).prop_map(|content| block(4, &content)),
        1 => (0..8u32, vec(any::<u8>(), 0..90))
            .prop_map(|(format, content)| block(format, &content)),
    ]
}

/// Whether `cut` is all of `whole` but for the end of its payload.
fn is_beginning(cut: &Frame<'_>, whole: &Frame<'_>) -> bool {
    let named =
        |frame: &Frame<'_>| (frame.destination, frame.source, frame.protocol, frame.ether_type);
    named(cut) == named(whole)
        && cut.tags().eq(whole.tags())
        && whole.payload().starts_with(cut.payload())
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        let _ = visit(&bytes);
        let _ = Frame::parse(&bytes);
        let behind_a_header = [&datagram_announcing(9, &[])[..], &bytes].concat();
        assert_accounted(&behind_a_header);
    }

    #[test]
    fn mutated_datagrams_are_accounted_for(
        samples in vec(any_sample(), 0..5),
        count in prop_oneof![0..9u32, any::<u32>()],
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = datagram_announcing(count, &samples);
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if cut {
            bytes.truncate(end.index(bytes.len()));
        }
        assert_accounted(&bytes);
    }

    /// A datagram yields what its samples yield alone: none sees its neighbours.
    #[test]
    fn samples_are_independent(
        samples in vec(any_sample(), 0..6),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut samples = samples;
        if let Some(sample) = samples.first_mut() {
            // Anything but the length.
            for (place, value) in changes {
                let place = place.index(sample.len());
                if !(4..8).contains(&place) {
                    sample[place] = value;
                }
            }
        }
        let alone: Vec<Event> = samples
            .iter()
            .flat_map(|sample| events(&datagram(std::slice::from_ref(sample))))
            .collect();
        prop_assert_eq!(events(&datagram(&samples)), alone);
    }

    /// Whatever comes behind the samples does not change what was read of them.
    #[test]
    fn samples_before_a_fault_are_unaffected(
        samples in vec(any_sample(), 0..5),
        fault in vec(any::<u8>(), 0..40),
    ) {
        let whole = events(&datagram(&samples));
        let count = u32::try_from(samples.len()).expect("few samples");
        let with_fault = [datagram_announcing(count + 3, &samples), fault].concat();
        prop_assert!(events(&with_fault).starts_with(&whole));
    }

    /// A header that is cut off reads as the whole one, but for the end of its payload, or not at
    /// all.
    #[test]
    fn a_cut_header_says_nothing_else(header in any_header(), end in any::<prop::sample::Index>()) {
        let whole = Frame::parse(&header);
        match Frame::parse(&header[..end.index(header.len())]) {
            Ok(frame) => prop_assert!(whole.is_ok_and(|whole| is_beginning(&frame, &whole))),
            Err(loss) => prop_assert_eq!(loss, Loss::HeaderTruncated),
        }
        if let Ok(frame) = whole {
            prop_assert!(frame.tags().count() * 4 <= header.len());
        }
    }
}
