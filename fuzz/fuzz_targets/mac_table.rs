//! The MAC table: whatever the portal answers, a table or an error, and never a panic; a table is
//! sorted, has nothing twice, and nothing that cannot be. The filter of one infrastructure takes
//! out the others, and nothing else.

#![no_main]

use ixflow::control::api::{REFUSED_MAX, parse_mac_table};

libfuzzer_sys::fuzz_target!(|json: &[u8]| {
    let Ok(table) = parse_mac_table(json, None) else { return };
    assert!(table.records.is_sorted_by(|a, b| a < b));
    assert!(table.records.iter().all(|record| record.vli.0 > 0 && !record.mac.is_group()));
    assert!(table.infrastructures.is_sorted_by(|a, b| a < b));
    assert_eq!(table.refused.len(), table.refused_count.min(REFUSED_MAX));
    for record in &table.records {
        assert!(table.infrastructures.binary_search(&record.infrastructure).is_ok());
    }
    for &infrastructure in table.infrastructures.iter().take(4) {
        // What remains may be wrong as a whole, and that is an error.
        let Ok(filtered) = parse_mac_table(json, Some(infrastructure)) else { continue };
        let kept = table.records.iter().filter(|record| record.infrastructure == infrastructure);
        assert!(filtered.records.iter().eq(kept));
        assert_eq!(filtered.infrastructures, table.infrastructures);
        assert!(filtered.refused_count <= table.refused_count);
    }
});
