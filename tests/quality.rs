//! Simulated fabrics with a fault each: what the counters of their ports show of it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use ixflow::agent::Agents;
use ixflow::agent::quality::{AgentQuality, Cause, findings};
use ixflow::count::relative_error_percent;
use ixflow::finding::Finding;
use ixflow::flush::Interval;
use ixflow::flush::backlog::WhenFull;
use ixflow::ixp::VliId;
use ixflow::pipeline::{Pipeline, Setup};
use ixflow::receive::{Batch, Received, Source};
use ixflow::resolve::{Direction, MacTable, Plan, Policy, ScalingBy};
use ixflow::simulate::{Fabric, SimulatedSource, Truth};
use ixflow::sink::{Receipt, Sink, SinkError};
use ixflow::state::State;

use crate::support::path::START_SECS;

/// Bytes by pair.
type Matrix = BTreeMap<(VliId, VliId), u64>;

struct MatrixSink(Arc<Mutex<Matrix>>);

impl Sink for MatrixSink {
    fn write(&mut self, interval: &Interval) -> Result<Receipt, SinkError> {
        let mut matrix = self.0.lock().unwrap();
        for pair in &interval.pairs {
            let bytes: u64 = pair.traffic.bytes.iter().sum();
            *matrix.entry((pair.source, pair.destination)).or_default() += bytes;
        }
        Ok(Receipt::default())
    }

    fn describe(&self) -> String {
        "a matrix".into()
    }
}

/// Loses some of every hundred datagrams, evenly.
struct Lossy<S> {
    source: S,
    percent: u64,
    seen: u64,
    kept: Vec<usize>,
}

impl<S: Source> Source for Lossy<S> {
    fn receive(&mut self) -> io::Result<Batch> {
        self.kept.clear();
        match self.source.receive()? {
            Batch::Datagrams { count, stamp_millis } => {
                for index in 0..count {
                    self.seen += 1;
                    // A stride that is prime to 100.
                    if self.seen * 37 % 100 >= self.percent {
                        self.kept.push(index);
                    }
                }
                Ok(Batch::Datagrams { count: self.kept.len(), stamp_millis })
            }
            Batch::End => Ok(Batch::End),
        }
    }

    fn datagram(&self, index: usize) -> Received<'_> {
        self.source.datagram(self.kept[index])
    }
}

/// What came of a stream.
struct Heard {
    state: Arc<State>,
    truth: Truth,
    matrix: Matrix,
    end_millis: u64,
}

impl Heard {
    fn qualities(&self) -> Vec<AgentQuality> {
        self.state.agents.list().iter().map(|agent| agent.quality()).collect()
    }

    fn findings(&self, name: &str) -> Vec<Finding> {
        let all = findings(&self.state.agents, self.end_millis);
        all.into_iter().filter(|finding| finding.name == name).collect()
    }

    /// Counted over said, of all pairs.
    fn share(&self) -> f64 {
        let said: u64 = self.truth.pairs().iter().flat_map(|pair| pair.traffic.bytes).sum();
        self.matrix.values().sum::<u64>() as f64 / said as f64
    }
}

fn hear(toml: &str, rate: u32, secs: u64, percent_lost: u64, policy: Policy) -> Heard {
    let fabric = Fabric::from_toml(toml).unwrap();
    let generator = fabric.generator(START_SECS * 1_000, rate).with_truth(86_400);
    let source = SimulatedSource::new(generator, secs * 1_000, None);
    let truth = source.truth_ahead();
    let source = Lossy { source, percent: percent_lost, seen: 0, kept: Vec::new() };
    let state = Arc::new(State::new(Agents::new(100, 10_000), 1));
    let (table, conflicts) = MacTable::build(&fabric.mac_table()).unwrap();
    assert!(conflicts.is_empty());
    let setup = Setup {
        step_secs: 300,
        from_millis: Some(START_SECS * 1_000),
        backlog_max: 10,
        when_full: WhenFull::Wait,
        keep: None,
    };
    let matrix = Arc::new(Mutex::new(Matrix::new()));
    let sink = Box::new(MatrixSink(matrix.clone()));
    let plan = Plan { table, policy };
    Pipeline::start(vec![move || source], plan, setup, vec![sink], &state).unwrap().join().unwrap();
    let matrix = std::mem::take(&mut *matrix.lock().unwrap());
    Heard { state, truth, matrix, end_millis: (START_SECS + secs) * 1_000 }
}

/// Two switches, the second of which is `fault`.
fn fabric(fault: &str) -> String {
    format!(
        "members = 8\nzipf_exponent = 0.3\nsampling_rate = 1000\ncounters_interval_secs = 27\n\
         [[switch]]\nagent = \"192.0.2.1\"\n[[switch]]\nagent = \"192.0.2.2\"\nexpanded = true\n\
         {fault}\n"
    )
}

/// The first switch is right, and the second one is not.
fn assert_second_is(heard: &Heard, percent: std::ops::RangeInclusive<f64>, cause: Cause) {
    let [first, second] = &heard.qualities()[..] else { panic!("two agents") };
    assert!((0.95..1.05).contains(&first.ratio.unwrap()), "{first:?}");
    assert_eq!(first.cause, None);
    assert!(percent.contains(&(second.ratio.unwrap() * 100.0)), "{second:?}");
    assert_eq!(second.cause, Some(cause));
    assert!(second.ports.iter().all(|port| port.is_wrong), "{second:?}");
    let findings = heard.findings("sampling_quality");
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].subject, "192.0.2.2");
    assert!(findings[0].what.ends_with(&format!("it looks like {cause}")), "{}", findings[0]);
}

#[test]
fn good_samples_agree_with_the_counters() {
    let heard = hear(&fabric(""), 400, 1_000, 0, Policy::default());
    for quality in heard.qualities() {
        assert_eq!(quality.ports.len(), 4, "{quality:?}");
        assert_eq!(quality.cause, None);
        for port in &quality.ports {
            // The simulated switch counts what it samples: no chance, only the time between a
            // sample and its datagram, and between datagrams and counters.
            let ratio = port.ratio.unwrap();
            assert!((0.99..1.01).contains(&ratio), "{port:?}");
            let secs = (port.window.to_millis - port.window.from_millis) / 1_000;
            assert!((300..330).contains(&secs), "{port:?}");
            assert!(port.error_percent > 0.5 && port.error_percent < 5.0, "{port:?}");
        }
    }
    assert_eq!(findings(&heard.state.agents, heard.end_millis), []);
    // Nothing for six minutes more.
    let silent = findings(&heard.state.agents, heard.end_millis + 360_000);
    assert_eq!(silent.len(), 2, "{silent:?}");
    assert!(silent.iter().all(|finding| finding.name == "agent_silent"));
    assert!(silent[0].what.ends_with("for 6 min"), "{}", silent[0]);
    assert_eq!(findings(&heard.state.agents, heard.end_millis + 2 * 86_400_000), []);
}

#[test]
fn a_switch_that_drops_samples_is_throttled() {
    let throttled = fabric("samples_per_second_max = 100");
    let heard = hear(&throttled, 400, 700, 0, Policy::default());
    assert_second_is(&heard, 35.0..=65.0, Cause::Throttled);
}

#[test]
fn a_switch_that_drops_samples_without_a_word_has_a_ceiling() {
    let quiet = "samples_per_second_max = 12\nsilent_drops = true\n[diurnal]\ntrough_share = \
                 0.4\npeak_hour = 8.0\n";
    let heard = hear(&fabric(quiet), 80, 6 * 3_600, 0, Policy::default());
    let cause = heard.qualities()[1].cause;
    let Some(Cause::Ceiling { samples_per_second }) = cause else { panic!("{cause:?}") };
    assert!((11..=12).contains(&samples_per_second));
}

#[test]
fn a_switch_that_names_another_rate_is_told_the_right_one() {
    let heard = hear(&fabric("named_sampling_rate = 500"), 400, 700, 0, Policy::default());
    // The traffic is even: a limit of samples a second would look the same.
    assert_second_is(&heard, 49.0..=51.0, Cause::RateOrCeiling { sampling_rate: 1_000 });
    let finding = &heard.findings("sampling_quality")[0];
    let remedy = "sampling_rate = 1000 in <sflow_agent 192.0.2.2>";
    assert!(finding.remedy.contains(remedy), "{finding}");
    // What it says, done.
    let mut policy = Policy::default();
    let agent = policy.agents.entry("192.0.2.2".parse().unwrap()).or_default();
    agent.sampling_rate = Some(1_000);
    let heard = hear(&fabric("named_sampling_rate = 500"), 400, 700, 0, policy);
    assert_eq!(heard.findings("sampling_quality"), []);
    assert_eq!(heard.share(), 1.0);
}

#[test]
fn a_rate_is_told_from_a_limit_that_leaves_half_by_how_the_samples_follow_the_traffic() {
    const DAY: &str = "[diurnal]\ntrough_share = 0.4\npeak_hour = 8.0\n";
    let named = fabric(&format!("named_sampling_rate = 500\n{DAY}"));
    let heard = hear(&named, 80, 4 * 3_600, 0, Policy::default());
    assert_second_is(&heard, 47.0..=53.0, Cause::Rate { sampling_rate: 1_000 });

    // What the second switch samples in a second, without a limit and then with a half of it.
    let free = hear(&fabric(""), 400, 700, 0, Policy::default());
    let window = free.qualities()[1].window;
    let limit = window.samples * 500 / (window.to_millis - window.from_millis);
    let half = format!("samples_per_second_max = {limit}\nsilent_drops = true");
    let heard = hear(&fabric(&half), 400, 700, 0, Policy::default());
    assert_second_is(&heard, 48.0..=52.0, Cause::RateOrCeiling { sampling_rate: 2_000 });
}

#[test]
fn datagrams_that_are_lost_are_told_from_samples_that_are_dropped() {
    let heard = hear(&fabric(""), 400, 700, 30, Policy::default());
    for quality in heard.qualities() {
        assert_eq!(quality.cause, Some(Cause::Lost), "{quality:?}");
        assert!((0.65..0.75).contains(&quality.ratio.unwrap()), "{quality:?}");
    }
    assert_eq!(heard.findings("sampling_quality").len(), 2);
}

#[test]
fn egress_samples_are_held_against_what_went_out() {
    let egress = fabric("[noise]\negress = 1.0");
    let mut policy = Policy::default();
    policy.other_agents.direction = Direction::Egress;
    let heard = hear(&egress, 400, 700, 0, policy);
    for quality in heard.qualities() {
        assert_eq!(quality.ports.len(), 4);
        assert!((0.98..1.02).contains(&quality.ratio.unwrap()), "{quality:?}");
    }
}

#[test]
fn a_switch_with_counters_alone_is_told() {
    let heard = hear(&fabric("samples_per_second_max = 0"), 400, 700, 0, Policy::default());
    let findings = heard.findings("counters_only");
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].subject, "192.0.2.2");
    assert!(findings[0].what.starts_with("no flow sample so far"), "{}", findings[0]);
}

fn by_pool() -> Policy {
    let mut policy = Policy::default();
    policy.other_agents.scaling = Some(ScalingBy::Pool);
    policy
}

/// Every pair is what was said, within twice the error that is stated for so many samples, and
/// all of them together to half a percent.
fn assert_repaired(heard: &Heard) {
    assert!((0.995..1.005).contains(&heard.share()), "{}", heard.share());
    for pair in heard.truth.pairs() {
        let said: u64 = pair.traffic.bytes.iter().sum();
        let samples: u32 = pair.traffic.samples.iter().sum();
        let counted = heard.matrix[&(pair.source, pair.destination)];
        let error = 2.0 * relative_error_percent(samples.into());
        let off = (counted as f64 / said as f64 - 1.0).abs() * 100.0;
        assert!(off < error, "{pair:?}: {counted}, {off} % off, where {error} % are stated");
    }
}

#[test]
fn what_is_lost_on_the_way_is_repaired_by_the_pool() {
    let without = hear(&fabric(""), 400, 700, 30, Policy::default());
    assert!((0.69..0.71).contains(&without.share()), "{}", without.share());
    let heard = hear(&fabric(""), 400, 700, 30, by_pool());
    assert_repaired(&heard);
    assert_eq!(heard.findings("sampling_quality"), []);
    assert_eq!(heard.findings("sample_pool"), []);
    // Where nothing is lost, nothing is repaired.
    assert_repaired(&hear(&fabric(""), 400, 700, 0, by_pool()));
}

#[test]
fn what_a_switch_drops_is_repaired_by_the_pool() {
    let throttled = fabric("samples_per_second_max = 100");
    let without = hear(&throttled, 400, 1_000, 0, Policy::default());
    assert!(without.share() < 0.8, "{}", without.share());
    let remedy = &without.findings("sampling_quality")[0].remedy;
    assert!(remedy.contains("or sflow_scaling = pool, which would make it "), "{remedy}");
    let heard = hear(&throttled, 400, 1_000, 0, by_pool());
    assert_repaired(&heard);
    assert_eq!(heard.findings("sampling_quality"), []);
}

#[test]
fn a_pool_that_is_made_up_is_told_and_not_used() {
    let heard = hear(&fabric("synthetic_pool = true"), 400, 700, 30, by_pool());
    let findings = heard.findings("sample_pool");
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].subject, "192.0.2.2");
    assert!(findings[0].what.contains("of 4 of 4 data sources"), "{}", findings[0]);
    let [first, second] = &heard.qualities()[..] else { panic!("two agents") };
    assert!((0.98..1.02).contains(&first.ratio.unwrap()), "{first:?}");
    assert!((0.65..0.75).contains(&second.ratio.unwrap()), "{second:?}");
}
