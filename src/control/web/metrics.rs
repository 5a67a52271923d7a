//! `/metrics`: the state in Prometheus's text format, version 0.0.4.
//!
//! Every series is in [`METRICS`]. Agents have series of their own as far as
//! [`AGENTS_SHOWN_MAX`](crate::state::status::AGENTS_SHOWN_MAX) goes, the others are the agent
//! `other`; there are none of pairs unless `sflow_metrics_pairs` asks for them.

use std::fmt::{Display, Write as _};

use crate::count::Traffic;
use crate::finding::Level;
use crate::flush::PairTraffic;
use crate::ixp::IpProtocol;
use crate::loss::Loss;
use crate::state::status::{QualityStatus, Received, Status};

/// What is rendered.
pub struct View<'a> {
    /// The state.
    pub status: &'a Status,
    /// Threads that do not move.
    pub stalled: usize,
    /// The pairs with most traffic, and over how many seconds.
    pub pairs: (&'a [PairTraffic], f64),
}

/// Whether a value only rises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It only rises while ixflow runs.
    Counter,
    /// It may fall.
    Gauge,
}

/// One metric: all that is said about it in one place.
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// What it means: one sentence.
    pub help: &'static str,
    samples: fn(&View<'_>, &mut Samples<'_>),
}

/// Where the samples of a metric go.
struct Samples<'a> {
    name: &'static str,
    out: &'a mut String,
}

impl Samples<'_> {
    fn one(&mut self, value: impl Display) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.out, "{} {value}", self.name);
    }

    fn labelled(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.out.push_str(self.name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.out, "{}{label}=\"", if index == 0 { '{' } else { ',' });
            for character in text.chars() {
                match character {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    other => self.out.push(other),
                }
            }
            self.out.push('"');
        }
        let _ = writeln!(self.out, "}} {value}");
    }

    /// One for each agent, and one for those beyond the limit.
    fn agents(&mut self, view: &View<'_>, value: fn(&Received) -> u64) {
        for agent in &view.status.agents {
            let (address, id) = (agent.address.to_string(), agent.sub_agent_id.to_string());
            self.labelled(&[("agent", &address), ("sub_agent", &id)], value(&agent.received));
        }
        if view.status.agents_known > view.status.agents.len() {
            let other = value(&view.status.other_agents);
            self.labelled(&[("agent", "other"), ("sub_agent", "")], other);
        }
    }
}

macro_rules! metrics {
    ($($kind:ident $name:literal $help:literal $samples:expr;)*) => {
        /// Every metric, in the order of `/metrics`.
        pub const METRICS: &[Metric] = &[
            $(Metric { name: $name, kind: Kind::$kind, help: $help, samples: $samples },)*
        ];
    };
}

metrics! {
    Gauge "ixflow_build_info" "Always 1; the version is a label."
        |view, out| out.labelled(&[("version", view.status.version)], 1);
    Gauge "ixflow_uptime_seconds" "Seconds since the start."
        |view, out| out.one(view.status.uptime_secs);
    Gauge "ixflow_ready" "1 if sockets are bound and there is a MAC table, else 0."
        |view, out| out.one(u8::from(view.status.ready));
    Gauge "ixflow_workers" "Receiving threads."
        |view, out| out.one(view.status.workers);
    Gauge "ixflow_threads_stalled"
        "Threads of the path that are at work and have not moved for ten seconds."
        |view, out| out.one(view.stalled);

    Counter "ixflow_datagrams_total" "Datagrams received, refused ones included."
        |view, out| out.one(view.status.received.datagrams);
    Counter "ixflow_flow_samples_total" "Flow samples that could be read."
        |view, out| out.one(view.status.received.flow_samples);
    Counter "ixflow_counters_samples_total" "Counters samples."
        |view, out| out.one(view.status.received.counters_samples);
    Counter "ixflow_flow_samples_counted_total" "Flow samples that were counted for a pair."
        |view, out| out.one(view.status.received.counted);
    Counter "ixflow_losses_total"
        "Datagrams and samples that were received and not counted, by reason."
        |view, out| for &loss in Loss::ALL {
            out.labelled(&[("reason", loss.name())], view.status.received.losses.of(loss));
        };
    Counter "ixflow_socket_drops_total"
        "Datagrams that the kernel dropped because a receive buffer was full; absent where the kernel does not say."
        |view, out| if let Some(drops) = view.status.socket_drops {
            out.one(drops);
        };
    Counter "ixflow_sequence_skipped_total"
        "Datagrams that were missing when their successors came; lost are those that are not late."
        |view, out| out.one(view.status.received.sequence_skipped);
    Counter "ixflow_sequence_late_total" "Skipped datagrams that came in the end."
        |view, out| out.one(view.status.received.sequence_late);
    Counter "ixflow_sequence_duplicates_total" "Datagrams that came twice."
        |view, out| out.one(view.status.received.sequence_duplicates);
    Counter "ixflow_sequence_restarts_total"
        "Restarts of agents, and senders that share an agent address."
        |view, out| out.one(view.status.received.sequence_restarts);
    Counter "ixflow_agent_drops_total" "Samples that agents dropped themselves."
        |view, out| out.one(view.status.received.agent_drops);

    Gauge "ixflow_agents" "Agents that were heard and are told apart."
        |view, out| out.one(view.status.agents_known);
    Counter "ixflow_untracked_datagrams_total" "Datagrams of agents beyond sflow_agents_max."
        |view, out| out.one(view.status.untracked_datagrams);
    Counter "ixflow_agent_datagrams_total"
        "Datagrams of an agent; the agent other is the sum of those without series of their own."
        |view, out| out.agents(view, |received| received.datagrams);
    Counter "ixflow_agent_flow_samples_total" "Flow samples of an agent that could be read."
        |view, out| out.agents(view, |received| received.flow_samples);
    Counter "ixflow_agent_flow_samples_counted_total" "Flow samples of an agent that were counted."
        |view, out| out.agents(view, |received| received.counted);
    Counter "ixflow_agent_sequence_skipped_total" "As ixflow_sequence_skipped_total, of an agent."
        |view, out| out.agents(view, |received| received.sequence_skipped);
    Counter "ixflow_agent_sequence_late_total" "As ixflow_sequence_late_total, of an agent."
        |view, out| out.agents(view, |received| received.sequence_late);
    Counter "ixflow_agent_sampler_drops_total" "As ixflow_agent_drops_total, of an agent."
        |view, out| out.agents(view, |received| received.agent_drops);
    Gauge "ixflow_agent_last_seen_timestamp_seconds" "When an agent was last heard, since 1970."
        |view, out| for agent in &view.status.agents {
            let (address, id) = (agent.address.to_string(), agent.sub_agent_id.to_string());
            let secs = agent.last_seen_millis as f64 / 1_000.0;
            out.labelled(&[("agent", &address), ("sub_agent", &id)], secs);
        };

    Gauge "ixflow_agent_quality_ratio"
        "What an agent's samples stand for, over what its port counters counted in the same time; absent while there is nothing to compare."
        |view, out| quality(view, out, |quality| quality.ratio);
    Gauge "ixflow_agent_quality_error_percent"
        "The error of ixflow_agent_quality_ratio, in percent of it, in 95 of 100 cases."
        |view, out| quality(view, out, |quality| quality.error_percent);

    Gauge "ixflow_table_age_seconds"
        "Seconds since the portal gave or confirmed the MAC table; absent while there is none."
        |view, out| if let Some(secs) = view.status.table_age_secs() {
            out.one(secs);
        };
    Gauge "ixflow_table_fetch_failures" "Attempts to fetch the table that failed since the last success."
        |view, out| out.one(view.status.table.failures);
    Gauge "ixflow_table_infrastructures" "Infrastructures in the table."
        |view, out| out.one(view.status.table.infrastructures);
    Gauge "ixflow_table_vlans" "VLANs in the table."
        |view, out| out.one(view.status.table.vlans);
    Gauge "ixflow_table_macs" "(VLAN, MAC) entries in the table."
        |view, out| out.one(view.status.table.macs);
    Gauge "ixflow_table_vlis" "VLAN interfaces in the table."
        |view, out| out.one(view.status.table.vlis);

    Counter "ixflow_intervals_written_total" "Intervals that were written."
        |view, out| out.one(view.status.write.intervals);
    Counter "ixflow_intervals_dropped_total"
        "Intervals that were given up, with all that was counted in them."
        |view, out| out.one(view.status.write.intervals_dropped);
    Counter "ixflow_intervals_unkept_total"
        "Intervals that left the disk for want of room while updates of theirs waited for new files."
        |view, out| out.one(view.status.write.unkept_before_creation);
    Counter "ixflow_clock_set_back_samples_total"
        "Counted samples that were given up because the clock was set back."
        |view, out| out.one(view.status.write.clock_set_back.samples);
    Counter "ixflow_updates_total" "Updates of files, refused ones included."
        |view, out| out.one(view.status.write.updates);
    Counter "ixflow_updates_refused_total" "Updates that a file or rrdcached refused."
        |view, out| out.one(view.status.write.refused);
    Counter "ixflow_updates_already_there_total" "Updates that were in their file already."
        |view, out| out.one(view.status.write.already_there);
    Counter "ixflow_files_created_total" "RRD files that were made."
        |view, out| out.one(view.status.write.created);
    Counter "ixflow_updates_ahead_total"
        "Updates for files that somebody else updated for a later time."
        |view, out| out.one(view.status.write.ahead);
    Counter "ixflow_updates_left_alone_total"
        "Updates for files that have other data sources, and are left alone."
        |view, out| out.one(view.status.write.left_alone);
    Counter "ixflow_write_failures_total"
        "Attempts to write an interval that failed whole; it is kept and tried again."
        |view, out| out.one(view.status.write.failures);
    Gauge "ixflow_backlog_intervals" "Intervals that wait to be written."
        |view, out| out.one(view.status.write.backlog);
    Gauge "ixflow_flush_duration_seconds" "How long the last interval took to be written."
        |view, out| out.one(view.status.write.last_millis as f64 / 1_000.0);
    Gauge "ixflow_last_interval_timestamp_seconds"
        "End of the last interval that was written, since 1970; absent before the first."
        |view, out| if view.status.write.last_to_secs > 0 {
            out.one(view.status.write.last_to_secs);
        };

    Gauge "ixflow_findings" "Findings at the moment, by level and name; absent where there is none."
        |view, out| {
            let mut names: Vec<(Level, &str)> =
                view.status.findings.iter().map(|finding| (finding.level, finding.name)).collect();
            names.sort_unstable();
            for group in names.chunk_by(|a, b| a == b) {
                let (level, name) = group[0];
                out.labelled(&[("level", &level.to_string()), ("name", name)], group.len());
            }
        };

    Gauge "ixflow_pair_bytes_per_second"
        "What a VLI sends to another, of the pairs that sflow_metrics_pairs asks for."
        |view, out| pairs(view, out, |traffic, protocol| traffic.bytes[protocol as usize]);
    Gauge "ixflow_pair_packets_per_second" "As ixflow_pair_bytes_per_second, in packets."
        |view, out| pairs(view, out, |traffic, protocol| traffic.packets[protocol as usize]);
    Gauge "ixflow_pair_error_percent"
        "The error of the two rates of a pair, in percent, in 95 of 100 cases; absent where no sample came."
        |view, out| each_pair(view, out, |traffic, protocol, _| {
            (traffic.samples[protocol as usize] > 0).then(|| traffic.error_percent(protocol))
        });
}

fn quality(view: &View<'_>, out: &mut Samples<'_>, value: fn(&QualityStatus) -> f64) {
    for agent in &view.status.agents {
        if let Some(quality) = &agent.quality {
            let (address, id) = (agent.address.to_string(), agent.sub_agent_id.to_string());
            out.labelled(&[("agent", &address), ("sub_agent", &id)], value(quality));
        }
    }
}

fn pairs(view: &View<'_>, out: &mut Samples<'_>, value: fn(&Traffic, IpProtocol) -> u64) {
    each_pair(view, out, |traffic, protocol, secs| Some(value(traffic, protocol) as f64 / secs));
}

fn each_pair(
    view: &View<'_>,
    out: &mut Samples<'_>,
    value: impl Fn(&Traffic, IpProtocol, f64) -> Option<f64>,
) {
    let (pairs, secs) = view.pairs;
    if secs <= 0.0 {
        return;
    }
    for pair in pairs {
        let (source, destination) = (pair.source.0.to_string(), pair.destination.0.to_string());
        for protocol in IpProtocol::ALL {
            let labels = [
                ("source", source.as_str()),
                ("destination", destination.as_str()),
                ("protocol", protocol.name()),
            ];
            if let Some(value) = value(&pair.traffic, protocol, secs) {
                out.labelled(&labels, value);
            }
        }
    }
}

/// The whole text. Metrics without a sample are left out.
pub fn render(view: &View<'_>) -> String {
    let mut out = String::with_capacity(16 << 10);
    for metric in METRICS {
        let mut samples = String::new();
        (metric.samples)(view, &mut Samples { name: metric.name, out: &mut samples });
        if samples.is_empty() {
            continue;
        }
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let name = metric.name;
        let _ = write!(out, "# HELP {name} {}\n# TYPE {name} {kind}\n{samples}", metric.help);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut out = String::new();
        let mut samples = Samples { name: "x", out: &mut out };
        samples.labelled(&[("a", "q\"b\\c\nd"), ("e", "")], 1.5);
        assert_eq!(out, "x{a=\"q\\\"b\\\\c\\nd\",e=\"\"} 1.5\n");
    }
}
