//! The portal's part of `ixflow check`: both MAC tables, how large they are, what contradicts
//! itself in them, and whom one of them does not know.

use std::collections::{BTreeMap, BTreeSet};

use super::{Report, SAME_MAX, some_of};
use crate::control::api::{
    ApiError, ApiFault, Client, Fetched, LastGood, Limits, MacTableKind, MacTableRecords, Portal,
};
use crate::control::config::Config;
use crate::finding::Level;
use crate::ixp::{Mac, MacRecord, VlanTag, VliId};
use crate::resolve::MacTable;

const NAME: &str = "api";

/// The name of a kind in the settings.
fn setting(kind: MacTableKind) -> &'static str {
    match kind {
        MacTableKind::Learned => "macdbtype = discovered",
        MacTableKind::Configured => "macdbtype = configured",
    }
}

/// Fetches both tables, and returns the records that the daemon would use: those of its kind, or
/// else the saved ones.
pub(super) fn check(
    config: &Config,
    saved: Option<LastGood>,
    report: &mut Report,
) -> Option<Vec<MacRecord>> {
    let portal = config.portal().ok()?;
    let kind = portal.table;
    let other_kind = match kind {
        MacTableKind::Learned => MacTableKind::Configured,
        MacTableKind::Configured => MacTableKind::Learned,
    };
    let other = Portal { table: other_kind, ..portal.clone() };
    let used = match fetch(&portal) {
        Ok(table) => {
            table_in_use(config, kind, &table, report);
            Some(table)
        }
        Err(error) => {
            let why = match &saved {
                Some(_) => "the saved table is used as long as it does not answer",
                None => "without a table nothing is counted",
            };
            let remedy = "docs/troubleshooting.md lists the answers of the portal";
            report.bad(Level::Fail, NAME, kind.endpoint(), [&error.to_string(), why, remedy]);
            None
        }
    };
    match (fetch(&other), &used) {
        (Ok(other), Some(used)) => {
            let counts = counts(&other.records);
            report.ok(NAME, other_kind.endpoint(), format!("not in use; {counts}"));
            compare(kind, &used.records, &other.records, report);
        }
        (Ok(other), None) => report.ok(NAME, other_kind.endpoint(), counts(&other.records)),
        (Err(error), Some(_)) => {
            report.ok(
                NAME,
                other_kind.endpoint(),
                format!("not in use, and not to be had: {error}"),
            );
        }
        (Err(_), None) => {}
    }
    used.map(|table| table.records).or(saved.map(|saved| saved.table.records))
}

fn fetch(portal: &Portal) -> Result<MacTableRecords, ApiError> {
    let cannot = |error: String| ApiError {
        url: String::new(),
        status: None,
        fault: ApiFault::Client(error),
        answer: String::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| cannot(error.to_string()))?;
    let mut client = Client::new(portal, Limits::default())?;
    match runtime.block_on(client.fetch())? {
        Fetched::Table { table, .. } => Ok(table),
        // A client that has no table yet does not ask for changes.
        Fetched::NotModified => Err(cannot("an answer without a table".into())),
    }
}

fn counts(records: &[MacRecord]) -> String {
    let infrastructures: BTreeSet<_> = records.iter().map(|record| record.infrastructure).collect();
    let vlans: BTreeSet<_> =
        records.iter().map(|record| (record.infrastructure, record.vlan)).collect();
    let vlis: BTreeSet<_> = records.iter().map(|record| record.vli).collect();
    format!(
        "{} MACs of {} VLIs on {} VLANs of {} infrastructures",
        records.len(),
        vlis.len(),
        vlans.len(),
        infrastructures.len()
    )
}

fn table_in_use(config: &Config, kind: MacTableKind, table: &MacTableRecords, report: &mut Report) {
    let subject = kind.endpoint();
    if let Some(wanted) = config.infrastructure
        && !table.infrastructures.contains(&wanted)
    {
        let known = some_of(table.infrastructures.iter().map(|id| id.0));
        let what = format!("sflow_infraid = {}: no such infrastructure in the table", wanted.0);
        let remedy = format!("set sflow_infraid to one of {known}, or remove it");
        report.bad(Level::Fail, NAME, subject, [&what, "nothing is counted", &remedy]);
    } else if table.records.is_empty() {
        let why = "no sample has a source or a destination that is known";
        let remedy = match kind {
            MacTableKind::Learned => {
                "let IXP Manager discover MACs (switches polled, peering ports of that type), or \
                 set macdbtype = configured"
            }
            MacTableKind::Configured => {
                "type MACs in on the VLAN interfaces, or set macdbtype = discovered"
            }
        };
        report.bad(Level::Fail, NAME, subject, ["the MAC table is empty", why, remedy]);
    } else {
        report.ok(NAME, subject, counts(&table.records));
    }
    for refused in &table.refused {
        let why = "the entry is left out, and its traffic is not counted";
        let remedy = "correct it in IXP Manager";
        report.bad(Level::Warn, NAME, subject, [&refused.to_string(), why, remedy]);
    }
    rest(table.refused_count - table.refused.len(), "entries were refused", report);
    match MacTable::build(&table.records) {
        Err(error) => {
            let remedy = "set sflow_infraid to count one infrastructure";
            let why = "no table can be made of it";
            report.bad(Level::Fail, NAME, subject, [&error.to_string(), why, remedy]);
        }
        Ok((_, conflicts)) => {
            for conflict in conflicts.iter().take(SAME_MAX) {
                let why = "traffic may be counted for somebody else";
                let remedy = "correct it in IXP Manager: the stale entry is the wrong one";
                let text = [&conflict.to_string(), why, remedy];
                report.bad(Level::Warn, "table_conflict", "", text);
            }
            let more = conflicts.len().saturating_sub(SAME_MAX);
            rest(more, "contradictions in the table", report);
        }
    }
}

fn rest(count: usize, what: &str, report: &mut Report) {
    if count > 0 {
        let what = format!("{count} more {what}");
        let text = [what.as_str(), "as above", "correct those above, and check again"];
        report.bad(Level::Warn, NAME, "", text);
    }
}

/// What the other table knows and the one in use does not.
fn compare(kind: MacTableKind, used: &[MacRecord], other: &[MacRecord], report: &mut Report) {
    let known: BTreeSet<VliId> = used.iter().map(|record| record.vli).collect();
    let elsewhere: BTreeSet<VliId> = other.iter().map(|record| record.vli).collect();
    let missing: Vec<u32> = elsewhere.difference(&known).map(|vli| vli.0).collect();
    if !missing.is_empty() {
        let what = format!(
            "{} VLIs have no MAC address in the table in use ({}), but in the other one: VLI {}",
            missing.len(),
            setting(kind),
            some_of(missing.iter())
        );
        let why = "their traffic is not counted (unknown_source, unknown_destination)";
        let remedy = match kind {
            MacTableKind::Learned => {
                "in IXP Manager, see that their switch ports are of type Peering and that the \
                 switches are polled, or set macdbtype = configured"
            }
            MacTableKind::Configured => {
                "type their MACs in on the VLAN interfaces, or set macdbtype = discovered"
            }
        };
        report.bad(Level::Warn, "vli_without_mac", "", [&what, why, remedy]);
    }
    if kind == MacTableKind::Configured {
        // What the switches see is what the samples will show.
        let mut learned: BTreeMap<VliId, BTreeSet<(VlanTag, Mac)>> = BTreeMap::new();
        for record in other {
            learned.entry(record.vli).or_default().insert((record.vlan, record.mac));
        }
        for record in used {
            if let Some(macs) = learned.get_mut(&record.vli) {
                macs.remove(&(record.vlan, record.mac));
            }
        }
        let differ: Vec<u32> = learned
            .iter()
            .filter(|(vli, macs)| !macs.is_empty() && known.contains(vli))
            .map(|(vli, _)| vli.0)
            .collect();
        if !differ.is_empty() {
            let what = format!(
                "the switches have learned MAC addresses that are not configured, at {} VLIs: VLI \
                 {}",
                differ.len(),
                some_of(differ.iter())
            );
            let why = "traffic from and to such an address is not counted";
            let remedy = "compare them in IXP Manager: a member may have changed its router";
            report.bad(Level::Warn, "mac_not_configured", "", [&what, why, remedy]);
        }
    }
}
