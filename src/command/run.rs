//! `ixflow run`: the daemon.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::Notify;

use super::log_to_stderr;
use crate::agent::{Agents, quality};
use crate::clock::Clock;
use crate::control::api::{self, ApiError, Client, Fetched, LastGood, Limits};
use crate::control::config::{Config, ConfigError, RrdcachedUse};
use crate::control::service::{self, Readiness};
use crate::control::web::{self, Listeners, Web, WebError};
use crate::finding::{Finding, Level};
use crate::flush::backlog::{Keep, WhenFull};
use crate::ixp::{InfrastructureId, MacRecord};
use crate::pipeline::{Pipeline, PipelineError, Setup};
use crate::receive::{ListenError, Spread, UdpSockets};
use crate::resolve::{AgentPolicy, Conflict, MacTable, Plan, Policy};
use crate::sink::direct::{self, Direct};
use crate::sink::rrdcached::{self, Address, Rrdcached};
use crate::sink::{Share, Sink, Tree, TreeHeld, TreeLock};
use crate::state::status::Status;
use crate::state::{State, TableState};
use crate::worker::Epoch;

/// Seconds of intervals that wait in memory at the most where they cannot be kept on disk: a day.
const BACKLOG_SECS: usize = 86_400;

/// Seconds between two summary lines.
const SUMMARY_SECS: u64 = 60;

/// A failure to fetch the table that goes on is said again after so many attempts.
const FAILURES_PER_LINE: u64 = 10;

/// Seconds until the table is asked for again while there is none.
const NO_TABLE_RETRY_SECS: u64 = 10;

/// Conflicts that are remembered as reported.
const CONFLICTS_MAX: usize = 10_000;

/// Findings that are said in a minute at the most; further ones in the next.
const FINDINGS_PER_MINUTE_MAX: usize = 20;

/// The file in the state directory that a daemon locks, with its process id.
pub(super) const LOCK_FILE: &str = "ixflow.lock";

/// A signal to stop that follows another one within this time is its echo: timeout(1) and
/// terminals tell the process and its group.
const STOP_ECHO: Duration = Duration::from_secs(1);

/// Arguments of `ixflow run`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The site's ixpmanager.conf [default: ../etc beside the binary, /usr/local/etc, /etc]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides a setting of the file
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Prints the settings in force as TOML, and ends
    #[arg(long)]
    print_config: bool,
}

/// The daemon could not start, or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The portal's client.
    #[error(transparent)]
    Portal(#[from] ApiError),
    /// The sockets.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The HTTP server.
    #[error(transparent)]
    Web(#[from] WebError),
    /// The data path.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The tree.
    #[error("sflow_rrddir = {}: {source}: expected a directory that can be written", path.display())]
    Tree {
        /// The root.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// Another daemon writes the tree.
    #[error("{0}, an ixflow that writes this tree: a second one needs its own sflow_rrddir")]
    TreeHeld(#[from] TreeHeld),
    /// Another daemon is there.
    #[error(
        "{}: locked by process {holder}: another ixflow runs with these settings; a second one \
         needs its own sflow_statedir, sflow_rrddir, sflow_listen and sflow_http_listen",
        path.display()
    )]
    Locked {
        /// The lock.
        path: PathBuf,
        /// Its process id.
        holder: String,
    },
    /// Signals, threads or the runtime of the control plane.
    #[error("cannot start: {0}")]
    Start(io::Error),
}

/// Runs the daemon until a signal ends it.
pub fn run(arguments: &Arguments) -> Result<(), RunError> {
    let config = Config::load(arguments.config.as_deref(), &arguments.set)?;
    if arguments.print_config {
        print!("{}", config.to_toml());
        return Ok(());
    }
    log_to_stderr(config.debug);
    for notice in &config.notices {
        tracing::warn!("{notice}");
    }
    let portal = config.portal()?;

    let lock = lock_state_dir(&config)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (mut sinks, _tree_lock) = open_sinks(&config, &stop)?;
    // One pace in all, and a file a second at the least.
    let create_per_sec = config.create_per_sec.div_ceil(u32::try_from(sinks.len()).unwrap_or(1));
    sinks.iter_mut().for_each(|sink| sink.pace(create_per_sec));
    let sink_name = sinks.iter().map(|sink| sink.describe()).collect::<Vec<_>>().join("; ");

    // The first table: the last good one, until the portal gives a newer.
    let mut keeper = TableKeeper::new(&config);
    let saved = keeper.load();
    let agents = Agents::new(config.agents_max, config.data_sources_max);
    let agents = match config.spread {
        Spread::Agent => agents,
        Spread::Datagram => agents.heard_in_parts(),
    };
    let sources = service::listen(&config)?;
    let workers = sources.len();
    let state = Arc::new(State::new(agents, workers));
    let begin = Status {
        socket_drops: Some(sources.iter().filter_map(UdpSockets::socket_drops).sum()),
        ..state.status_now(Clock::System.now_millis())
    };
    let table = saved.and_then(|saved| {
        let source = format!("the saved answer of {}", saved.url);
        keeper.take(saved, &source, &state)
    });
    let plan = Plan { table: table.unwrap_or_default(), policy: policy(&config) };

    let clock = Clock::System;
    let http = Listeners::bind(&config.http_listen)?;
    let sockets = sources.first().map(|source| {
        let addresses: Vec<_> = source.local_addresses().iter().map(ToString::to_string).collect();
        (addresses.join(", "), source.receive_buffer_bytes())
    });
    let (addresses, buffer_bytes) = sockets.unwrap_or_default();
    state.set_listening(sources.first().map(UdpSockets::local_addresses).unwrap_or_default());

    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP]).map_err(RunError::Start)?;
    let setup = Setup {
        step_secs: config.flush_secs,
        from_millis: Some(clock.now_millis()),
        backlog_max: BACKLOG_SECS / config.flush_secs as usize,
        when_full: WhenFull::DropOldest,
        keep: lock.is_some().then(|| Keep {
            state_dir: config.state_dir.clone(),
            memory_intervals: config.memory_intervals,
            secs_max: config.spool_hours * 3_600,
            bytes_max: config.spool_bytes as u64,
            again_secs: config.resend_secs,
            save_every: Duration::from_secs(config.state_save_secs),
        }),
    };
    let sources = sources
        .into_iter()
        .map(|sockets| {
            let clock = clock.clone();
            move || sockets.into_source(clock)
        })
        .collect();
    let pipeline = Pipeline::start(sources, plan, setup, sinks, &state)?;
    tracing::info!(
        "ixflow {} listens on UDP {addresses} with {workers} workers (receive buffer \
         {buffer_bytes} bytes each); table: {}; every {} s to {sink_name}",
        env!("CARGO_PKG_VERSION"),
        describe_table(&state.table(), clock.now_millis() / 1_000),
        config.flush_secs,
    );
    if buffer_bytes < config.receive_buffer_bytes {
        tracing::warn!(
            "the receive buffer is {buffer_bytes} bytes where sflow_receive_buffer_bytes asks for \
             {}: raise {} to that size, or start with CAP_NET_ADMIN",
            config.receive_buffer_bytes,
            if cfg!(target_os = "linux") { "net.core.rmem_max" } else { "kern.ipc.maxsockbuf" },
        );
    }
    if config.agents_allow.is_empty() {
        tracing::info!("sflow_agents_allow is not set: datagrams from every address are counted");
    }

    let http_addresses = http.addresses();
    let settings = web::Settings {
        token: config.http_token.clone(),
        metrics_pairs: config.metrics_pairs,
        rrd_dir: config.rrd_dir.clone(),
        rrdcached: if goes_through_rrdcached(&config) {
            rrdcached_settings(&config).into_iter().map(|one| (one.address, one.share)).collect()
        } else {
            Vec::new()
        },
    };
    let shown = web::Sources {
        state: state.clone(),
        epoch: pipeline.epoch().clone(),
        live: pipeline.live().clone(),
        clock: clock.clone(),
    };
    let _web = Web::start(http, settings, shown).map_err(RunError::Start)?;
    for address in http_addresses {
        tracing::info!("live page, metrics and files: http://{address}/");
        if !address.ip().is_loopback() && config.http_token.is_none() {
            tracing::warn!(
                "http://{address}/ is open to whoever reaches it: set sflow_http_token, or let a \
                 reverse proxy ask who it is"
            );
        }
    }

    let epoch = pipeline.epoch().clone();
    let reload = Arc::new(Notify::new());
    {
        let (epoch, reload) = (epoch.clone(), reload.clone());
        spawn("signals", move || {
            let mut stopping: Option<Instant> = None;
            for signal in signals.forever() {
                if signal == SIGHUP {
                    reload.notify_one();
                } else if let Some(since) = stopping {
                    if since.elapsed() > STOP_ECHO {
                        tracing::warn!("told to stop twice: ending at once");
                        std::process::exit(1);
                    }
                } else {
                    stopping = Some(Instant::now());
                    tracing::info!("told to stop: flushing what was counted");
                    stop.store(true, Ordering::Relaxed);
                    epoch.stop();
                    service::stopping();
                }
            }
        })?;
    }
    {
        let control = Control {
            arguments: (arguments.config.clone(), arguments.set.clone()),
            client: Client::new(&portal, Limits::default())?,
            config,
            keeper,
            epoch,
            state: state.clone(),
            clock,
            reload,
            said: BTreeSet::new(),
            readiness: Readiness::new(),
            failure: String::new(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(RunError::Start)?;
        let begin = begin.clone();
        spawn("control", move || runtime.block_on(control.run(begin)))?;
    }

    service::start_watchdog(state.clone()).map_err(RunError::Start)?;

    let result = pipeline.join();
    summary(&state.status_now(Clock::System.now_millis()), &begin, "in all");
    result?;
    Ok(())
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), RunError> {
    std::thread::Builder::new().name(name.into()).spawn(body).map_err(RunError::Start)?;
    Ok(())
}

/// Makes sure that no other daemon works with the same state, and so with the same settings: two
/// would share the port, and each see a part of the samples. Held as long as the file is open.
///
/// Without a state directory there is no lock, and no saved table either: that is said, and no
/// reason to stay away.
fn lock_state_dir(config: &Config) -> Result<Option<File>, RunError> {
    let path = config.state_dir.join(LOCK_FILE);
    let open = || {
        std::fs::create_dir_all(&config.state_dir)?;
        File::options().create(true).truncate(false).read(true).write(true).open(&path)
    };
    let mut file = match open() {
        Ok(file) => file,
        Err(error) => {
            tracing::warn!(
                "sflow_statedir = {}: {error}: a restart would lose what was not written yet, and \
                 would have no MAC table while the portal is away",
                config.state_dir.display()
            );
            return Ok(None);
        }
    };
    match file.try_lock() {
        Ok(()) => {
            // Only for people, and for the message below.
            let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
            Ok(Some(file))
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.take(20).read_to_string(&mut holder);
            Err(RunError::Locked { path, holder })
        }
        Err(TryLockError::Error(error)) => {
            tracing::warn!("{}: cannot be locked: {error}", path.display());
            Ok(None)
        }
    }
}

/// The policy of the configuration.
pub(super) fn policy(config: &Config) -> Policy {
    let scaling = Some(config.scaling);
    let mut agents = config.agents.clone();
    for agent in agents.values_mut() {
        agent.scaling = agent.scaling.or(scaling);
    }
    Policy {
        agents,
        other_agents: AgentPolicy { scaling, ..AgentPolicy::default() },
        sources_allowed: config.agents_allow.clone(),
    }
}

/// Whether the files are written by an rrdcached.
pub(super) fn goes_through_rrdcached(config: &Config) -> bool {
    match (config.rrdcached, &config.rrdcached_sockets[..]) {
        (RrdcachedUse::Rrdcached, _) => true,
        (RrdcachedUse::Direct, _) => false,
        (RrdcachedUse::Auto, [Address::Unix(path)]) => path.exists(),
        // An address that somebody wrote down is meant.
        (RrdcachedUse::Auto, _) => true,
    }
}

/// What the sinks for rrdcached need to know, one for each socket.
pub(super) fn rrdcached_settings(config: &Config) -> Vec<rrdcached::Settings> {
    let names: Vec<String> = config.rrdcached_sockets.iter().map(Address::to_string).collect();
    let shares = Share::of_all(&names).into_iter();
    let settings = config.rrdcached_sockets.iter().zip(shares).map(|(address, share)| {
        let timeout = Duration::from_secs(config.rrdcached_timeout_secs);
        rrdcached::Settings {
            address: address.clone(),
            root: config.rrd_dir.clone(),
            share,
            create: config.create,
            aggregates: config.aggregates,
            timeout,
        }
    });
    settings.collect()
}

/// What a tree is written by.
type Sinks = Vec<Box<dyn Sink>>;

/// Opens the sinks that the tree is written by from now on, each a share of it, and locks the tree
/// if it is here.
pub(super) fn open_sinks(
    config: &Config,
    stop: &Arc<AtomicBool>,
) -> Result<(Sinks, Option<TreeLock>), RunError> {
    let tree_error = |source| RunError::Tree { path: config.rrd_dir.clone(), source };
    let through_rrdcached = goes_through_rrdcached(config);
    // Behind TCP the tree may be another host's, or on a disk that is not mounted.
    let elsewhere = through_rrdcached && config.rrdcached_is_elsewhere();
    if !elsewhere
        && let Err(error) = std::fs::create_dir_all(&config.rrd_dir)
        && !through_rrdcached
    {
        return Err(tree_error(error));
    }
    let lock = if elsewhere { None } else { TreeLock::take(&config.rrd_dir)? };
    let sinks = if through_rrdcached {
        let open = |settings| -> io::Result<Box<dyn Sink>> {
            Ok(Box::new(Rrdcached::new(settings, stop.clone())?))
        };
        let sinks = rrdcached_settings(config).into_iter().map(open);
        sinks.collect::<io::Result<_>>().map_err(tree_error)?
    } else {
        let tree = Tree::open(&config.rrd_dir).map_err(tree_error)?;
        let direct = Direct::new(tree, config.create, direct::default_threads())
            .map(|direct| direct.with_aggregates(config.aggregates).stopping(stop.clone()));
        vec![Box::new(direct.map_err(tree_error)?) as Box<dyn Sink>]
    };
    Ok((sinks, lock))
}

fn describe_table(table: &TableState, now_secs: u64) -> String {
    if table.source.is_empty() {
        return "none yet, nothing is counted until the portal gives one".into();
    }
    format!(
        "{}, {} s old, with infrastructures={} vlans={} macs={} vlis={}",
        table.source,
        now_secs.saturating_sub(table.fetched_secs),
        table.infrastructures,
        table.vlans,
        table.macs,
        table.vlis
    )
}

/// Turns answers of the portal into tables, and keeps the last good one.
struct TableKeeper {
    state_dir: PathBuf,
    infrastructure: Option<InfrastructureId>,
    records: Option<Vec<MacRecord>>,
    reported: BTreeSet<Conflict>,
}

impl TableKeeper {
    fn new(config: &Config) -> TableKeeper {
        TableKeeper {
            state_dir: config.state_dir.clone(),
            infrastructure: config.infrastructure,
            records: None,
            reported: BTreeSet::new(),
        }
    }

    /// The table that was saved last.
    fn load(&self) -> Option<LastGood> {
        api::load_table(&self.state_dir, self.infrastructure).unwrap_or_else(|error| {
            tracing::warn!("{error}");
            None
        })
    }

    /// A new table if the records are others than before.
    fn take(&mut self, good: LastGood, source: &str, state: &State) -> Option<MacTable> {
        let LastGood { table, fetched_at_secs, .. } = good;
        if let Some(wanted) = self.infrastructure
            && !table.infrastructures.contains(&wanted)
        {
            let known: Vec<_> = table.infrastructures.iter().map(|id| id.0.to_string()).collect();
            tracing::error!(
                "{source}: sflow_infraid = {}: no such infrastructure in the table, so that \
                 nothing is counted: expected one of {}",
                wanted.0,
                known.join(", ")
            );
        }
        {
            let mut seen = state.table();
            seen.fetched_secs = fetched_at_secs;
            source.clone_into(&mut seen.source);
            seen.failures = 0;
        }
        if self.records.as_ref() == Some(&table.records) {
            return None;
        }
        for refused in &table.refused {
            tracing::warn!("{source}: {}: expected {}", refused.path, refused.expected);
        }
        if table.refused_count > table.refused.len() {
            let more = table.refused_count - table.refused.len();
            tracing::warn!("{source}: {more} more entries were refused");
        }
        let (built, conflicts) = match MacTable::build(&table.records) {
            Ok(built) => built,
            Err(error) => {
                tracing::error!("{source}: {error}; the table in use stays");
                return None;
            }
        };
        for conflict in conflicts {
            if self.reported.len() < CONFLICTS_MAX && !self.reported.contains(&conflict) {
                tracing::warn!("{source}: {conflict}");
                self.reported.insert(conflict);
            }
        }
        let lans = built.lans();
        let infrastructures: BTreeSet<_> = lans.iter().map(|lan| lan.infrastructure).collect();
        let vlis: BTreeSet<_> = lans.iter().flat_map(|lan| lan.vlis.iter()).collect();
        {
            let mut seen = state.table();
            seen.infrastructures = infrastructures.len();
            seen.vlans = lans.len();
            seen.macs = built.mac_count();
            seen.vlis = vlis.len();
        }
        self.records = Some(table.records);
        Some(built)
    }
}

/// The control plane: fetches the table, reloads settings, says a line a minute.
struct Control {
    arguments: (Option<PathBuf>, Vec<String>),
    config: Config,
    client: Client,
    keeper: TableKeeper,
    epoch: Arc<Epoch>,
    state: Arc<State>,
    clock: Clock,
    reload: Arc<Notify>,
    /// Findings that were said, by name and subject.
    said: BTreeSet<(&'static str, String)>,
    readiness: Readiness,
    /// Why the last fetch failed; empty if it did not.
    failure: String,
}

impl Control {
    async fn run(mut self, begin: Status) {
        let mut before = begin;
        let mut summary_at = tokio::time::interval(Duration::from_secs(SUMMARY_SECS));
        summary_at.tick().await;
        let mut fetch_at = tokio::time::Instant::now();
        self.settle("");
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(fetch_at) => {
                    self.fetch().await;
                    let wait_secs = if self.has_table() {
                        self.config.api_interval_secs
                    } else {
                        self.config.api_interval_secs.min(NO_TABLE_RETRY_SECS)
                    };
                    fetch_at = tokio::time::Instant::now() + Duration::from_secs(wait_secs);
                    if !self.readiness.is_told() {
                        self.settle("");
                    }
                }
                _ = summary_at.tick() => {
                    let found = quality::findings(&self.state.agents, self.clock.now_millis());
                    self.state.set_findings(quality::FINDINGS, found);
                    self.state.refresh_findings();
                    self.say_findings();
                    let now = self.state.status_now(self.clock.now_millis());
                    summary(&now, &before, "in the last minute");
                    let minute = now.received.since(&before.received);
                    self.settle(&format!(
                        "; in the last minute: {} datagrams, {} samples, {} counted",
                        minute.datagrams, minute.flow_samples, minute.counted
                    ));
                    before = now;
                }
                () = self.reload.notified() => {
                    self.readiness.reload();
                    tracing::info!("told to reload: settings, table, flush");
                    self.reload_settings();
                    self.epoch.request_flush();
                    fetch_at = tokio::time::Instant::now();
                }
            }
        }
    }

    /// Says each finding once, as long as it is there.
    fn say_findings(&mut self) {
        let findings = self.state.findings();
        let key = |finding: &Finding| (finding.name, finding.subject.clone());
        let keys: BTreeSet<_> = findings.iter().map(key).collect();
        self.said.retain(|said| keys.contains(said));
        let news = findings.iter().filter(|finding| !self.said.contains(&key(finding)));
        let news: Vec<_> = news.take(FINDINGS_PER_MINUTE_MAX).collect();
        for finding in &news {
            match finding.level {
                Level::Ok => tracing::info!("{finding}"),
                Level::Warn | Level::Fail => tracing::warn!("{finding}"),
            }
        }
        self.said.extend(news.into_iter().map(key));
    }

    fn now_secs(&self) -> u64 {
        self.clock.now_millis() / 1_000
    }

    fn has_table(&self) -> bool {
        self.keeper.records.is_some()
    }

    /// Tells the service manager how things are.
    fn settle(&mut self, minute: &str) {
        let table = describe_table(&self.state.table(), self.now_secs());
        let mut status = format!("table: {table}{minute}");
        if !self.failure.is_empty() {
            status.push_str("; ");
            status.push_str(&self.failure);
        }
        self.readiness.settle(self.has_table(), &status);
    }

    async fn fetch(&mut self) {
        self.failure.clear();
        match self.client.fetch().await {
            Ok(Fetched::NotModified) => {
                let now_secs = self.now_secs();
                let mut table = self.state.table();
                table.fetched_secs = now_secs;
                table.failures = 0;
            }
            Ok(Fetched::Table { table, body }) => {
                let had_entries = self.keeper.records.as_ref().is_some_and(|r| !r.is_empty());
                if table.records.is_empty() && had_entries {
                    tracing::error!(
                        "{}: the answer is an empty table: the table in use stays; if the \
                         exchange is really empty, remove the saved table and restart",
                        self.client.url()
                    );
                    self.client.forget();
                    return;
                }
                let source = self.client.url().to_string();
                let fetched_at_secs = self.now_secs();
                let good = LastGood { table, url: source.clone(), fetched_at_secs };
                if let Some(table) = self.keeper.take(good, &source, &self.state) {
                    let policy = self.epoch.plan().policy.clone();
                    self.epoch.set_plan(Arc::new(Plan { table, policy }));
                    let described = describe_table(&self.state.table(), fetched_at_secs);
                    tracing::info!("new table: {described}");
                }
                let dir = &self.keeper.state_dir;
                if let Err(error) = api::save_table(dir, &body, &source, fetched_at_secs) {
                    tracing::warn!("{error}: a restart without the portal would have no table");
                }
            }
            Err(error) => {
                let failures = {
                    let mut table = self.state.table();
                    table.failures += 1;
                    table.failures
                };
                if failures % FAILURES_PER_LINE == 1 {
                    let table = describe_table(&self.state.table(), self.now_secs());
                    tracing::error!("{error}; in use: {table}");
                }
                self.failure = error.to_string();
            }
        }
    }

    fn reload_settings(&mut self) {
        let (path, set) = &self.arguments;
        let (new, portal) = match Config::load(path.as_deref(), set)
            .and_then(|config| config.portal().map(|portal| (config, portal)))
        {
            Ok(new) => new,
            Err(error) => {
                tracing::error!("{error}; the settings in use stay");
                return;
            }
        };
        for notice in new.notices.iter().filter(|notice| !self.config.notices.contains(notice)) {
            tracing::warn!("{notice}");
        }
        let fixed = self.config.fixed_changes(&new);
        if !fixed.is_empty() {
            tracing::warn!("takes effect at the next start: {}", fixed.join(", "));
        }
        let policy = policy(&new);
        if self.epoch.plan().policy != policy {
            let table = self.epoch.plan().table.clone();
            self.epoch.set_plan(Arc::new(Plan { table, policy }));
        }
        match Client::new(&portal, Limits::default()) {
            Ok(client) => self.client = client,
            Err(error) => tracing::error!("{error}; the portal in use stays"),
        }
        self.keeper.infrastructure = new.infrastructure;
        self.config = new;
    }
}

/// The minute's line: what was received since `before`, and what became of it.
fn summary(now: &Status, before: &Status, when: &str) {
    let received = now.received.since(&before.received);
    let (write, earlier) = (&now.write, &before.write);
    let losses: String =
        received.losses.iter().map(|(loss, count)| format!(" {}={count}", loss.name())).collect();
    let inferred = match received.vlan_inferred {
        0 => String::new(),
        samples => format!(" (vlan_inferred={samples})"),
    };
    tracing::info!(
        "{when}: datagrams={} samples={} counted={}{inferred}{losses} sequence_gaps={} agent_drops={} \
         socket_drops={} updated={} created={} refused={} flush_millis={} backlog={} \
         intervals_dropped={} clock_set_back={} repaired={}",
        received.datagrams,
        received.flow_samples,
        received.counted,
        received.sequence_gaps,
        received.agent_drops,
        now.socket_drops.unwrap_or(0).saturating_sub(before.socket_drops.unwrap_or(0)),
        (write.updates - write.refused).saturating_sub(earlier.updates - earlier.refused),
        write.created.saturating_sub(earlier.created),
        write.refused.saturating_sub(earlier.refused),
        write.last_millis,
        write.backlog,
        write.intervals_dropped.saturating_sub(earlier.intervals_dropped),
        write.clock_set_back.samples.saturating_sub(earlier.clock_set_back.samples),
        write.repaired.saturating_sub(earlier.repaired),
    );
}
