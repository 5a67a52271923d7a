//! sFlow v5 datagrams by hand.

/// Numbers as XDR.
pub(crate) fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("test data are short")
}

/// A sample or a record: format, length, content, padding.
pub(crate) fn block(format: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = [words(&[format, length_of(content)]), content.to_vec()].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A datagram of the agent 192.0.2.77 that announces `count` samples.
pub(crate) fn announcing(count: u32, samples: &[Vec<u8>]) -> Vec<u8> {
    [words(&[5, 1, 0xc000_024d, 0, 42, 1_000, count]), samples.concat()].concat()
}

/// A datagram of the agent 192.0.2.77.
pub(crate) fn datagram(samples: &[Vec<u8>]) -> Vec<u8> {
    announcing(u32::try_from(samples.len()).expect("test data are short"), samples)
}

/// The content of a flow sample at ingress that announces `count` records.
pub(crate) fn flow_content(sampling_rate: u32, count: u32, records: &[Vec<u8>]) -> Vec<u8> {
    // Sequence number, data source, rate, pool, drops, input, output.
    [words(&[1, 3, sampling_rate, 4_096, 0, 3, 4, count]), records.concat()].concat()
}

/// A flow sample at ingress.
pub(crate) fn flow(sampling_rate: u32, records: &[Vec<u8>]) -> Vec<u8> {
    let count = u32::try_from(records.len()).expect("test data are short");
    block(1, &flow_content(sampling_rate, count, records))
}

/// A flow sample at ingress whose packet went out where the word says (typedef interface).
pub(crate) fn flow_out(sampling_rate: u32, output: u32, records: &[Vec<u8>]) -> Vec<u8> {
    let count = u32::try_from(records.len()).expect("test data are short");
    let mut content = flow_content(sampling_rate, count, records);
    content[24..28].copy_from_slice(&output.to_be_bytes());
    block(1, &content)
}

/// A raw packet header record of an Ethernet frame.
pub(crate) fn raw(frame_length: u32, header: &[u8]) -> Vec<u8> {
    block(1, &[words(&[1, frame_length, 4, length_of(header)]), header.to_vec()].concat())
}

/// An extended switch record.
pub(crate) fn switch(vlan: u32) -> Vec<u8> {
    block(1001, &words(&[vlan, 0, vlan, 0]))
}

/// The first bytes of a tagged frame.
pub(crate) fn frame(source: [u8; 6], destination: [u8; 6], vlan: u16, ether_type: u16) -> Vec<u8> {
    let mut bytes = [destination, source].concat();
    bytes.extend_from_slice(&[0x81, 0]);
    bytes.extend_from_slice(&vlan.to_be_bytes());
    bytes.extend_from_slice(&ether_type.to_be_bytes());
    bytes.extend_from_slice(&[0x45; 46]);
    bytes
}
