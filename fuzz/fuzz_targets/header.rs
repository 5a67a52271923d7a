//! A sampled header, cut off anywhere: what is read of the beginning is what is read of the
//! whole, but for the end of the payload.

#![no_main]

use ixflow::decode::ethernet::Frame;
use ixflow::ixp::VlanTag;
use ixflow::loss::Loss;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|header: &[u8]| {
    let frame = Frame::parse(header);
    if let Ok(frame) = &frame {
        assert!(frame.tags().count() * 4 <= header.len());
        assert!(frame.tags().all(VlanTag::is_some));
    }
    for end in 0..header.len() {
        match Frame::parse(&header[..end]) {
            Ok(cut) => {
                let whole = frame.expect("what reads when cut off reads");
                assert_eq!(
                    (cut.destination, cut.source, cut.protocol, cut.ether_type),
                    (whole.destination, whole.source, whole.protocol, whole.ether_type)
                );
                assert!(cut.tags().eq(whole.tags()));
                assert!(whole.payload().starts_with(cut.payload()));
            }
            Err(loss) => assert_eq!(loss, Loss::HeaderTruncated),
        }
    }
});
