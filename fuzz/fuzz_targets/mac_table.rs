//! The MAC table: whatever the portal answers, a table or an error, and never a panic; a table is
//! sorted, has nothing twice, and nothing that cannot be.

#![no_main]

use ixflow::control::api::parse_mac_table;

libfuzzer_sys::fuzz_target!(|json: &[u8]| {
    if let Ok(table) = parse_mac_table(json, None) {
        assert!(table.records.is_sorted_by(|a, b| a < b));
        assert!(table.records.iter().all(|record| record.vli.0 > 0 && !record.mac.is_group()));
    }
});
