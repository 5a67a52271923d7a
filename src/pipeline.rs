//! The assembly: threads for the data path, from sources to a sink.
//!
//! One thread a worker, one that flushes, one that writes for each sink. Every command that takes datagrams
//! through the path starts it here, so that a replay and the demo are the real thing.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::bounded;

use crate::flush::Flusher;
use crate::flush::backlog::{Backlog, Keep, WhenFull};
use crate::flush::live::Live;
use crate::receive::Source;
use crate::resolve::Plan;
use crate::sink::Sink;
use crate::sink::writer::{self, Shown};
use crate::state::State;
use crate::worker::{Epoch, Worker};

/// Ledgers on their way to the flusher at the most: it does nothing but merge them, so that a
/// worker never waits for long.
const HANDOVERS_MAX: usize = 64;

/// How the path is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Seconds between two boundaries.
    pub step_secs: u32,
    /// Start of observation, in milliseconds since 1970; none: the first stamp of each source.
    pub from_millis: Option<u64>,
    /// Intervals that wait for the sink in memory at the most.
    pub backlog_max: usize,
    /// What happens to further ones.
    pub when_full: WhenFull,
    /// How intervals and the open step are kept on disk; none: not at all.
    pub keep: Option<Keep>,
}

/// The path at work.
pub struct Pipeline {
    epoch: Arc<Epoch>,
    live: Arc<Live>,
    workers: Vec<JoinHandle<io::Result<()>>>,
    flusher: JoinHandle<()>,
    writers: Vec<JoinHandle<()>>,
    keeper: JoinHandle<()>,
    backlog: Arc<Backlog>,
    state: Arc<State>,
}

/// The path did not end well.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// A source failed; what was received before is written.
    #[error("cannot receive: {0}")]
    Receive(io::Error),
    /// The sink was away to the end.
    #[error("{0} intervals could not be written before the end")]
    IntervalsLost(usize),
}

impl Pipeline {
    /// Starts one worker for each source, which is made in the worker's thread, and one writer for
    /// each sink.
    pub fn start<S: Source>(
        sources: Vec<impl FnOnce() -> S + Send + 'static>,
        plan: Plan,
        setup: Setup,
        sinks: Vec<Box<dyn Sink>>,
        state: &Arc<State>,
    ) -> Result<Pipeline, PipelineError> {
        let epoch = Arc::new(Epoch::new(plan));
        let Setup { step_secs, from_millis, backlog_max, when_full, keep } = setup;
        let mut backlog = Backlog::new(backlog_max, when_full, sinks.len(), state.clone());
        if let Some(keep) = keep {
            backlog = backlog.keeping(keep);
        }
        let backlog = Arc::new(backlog);
        // What an earlier run counted must not be counted again: if the clock shows less, it was
        // set back.
        let resumed_millis = backlog.resumed_to_secs().map_or(0, |secs| secs * 1_000);
        let from_millis = from_millis.map(|from| from.max(resumed_millis));
        let (out, handovers) = bounded(HANDOVERS_MAX);
        let mut spares = Vec::with_capacity(sources.len());
        let mut workers = Vec::with_capacity(sources.len());
        for (number, source) in sources.into_iter().enumerate() {
            let (spare, spares_of_worker) = bounded(1);
            spares.push(spare);
            let (epoch, out, state) = (epoch.clone(), out.clone(), state.clone());
            workers.push(spawn(format!("worker-{number}"), move || {
                let spares = spares_of_worker;
                let source = source();
                Worker::new(number, source, from_millis, step_secs, epoch, out, spares, state).run()
            })?);
        }
        drop(out);
        let flusher = Flusher::new(step_secs, epoch.clone(), handovers, spares, backlog.clone());
        let live = flusher.live();
        let pulses = state.clone();
        let flusher = spawn("flush".into(), move || flusher.run(&pulses.flusher))?;
        let keeper = {
            let backlog = backlog.clone();
            spawn("keep".into(), move || backlog.run_keeper())?
        };
        let shown = Arc::new(Shown::new(sinks.len()));
        let mut writers = Vec::with_capacity(sinks.len());
        for (number, mut sink) in sinks.into_iter().enumerate() {
            let (backlog, state, shown) = (backlog.clone(), state.clone(), shown.clone());
            writers.push(spawn(writer::thread_name(number), move || {
                writer::run(number, &backlog, sink.as_mut(), &state, &shown);
            })?);
        }
        let state = state.clone();
        Ok(Pipeline { epoch, live, workers, flusher, writers, keeper, backlog, state })
    }

    /// The epoch, for new plans, flushes on request and the end.
    pub fn epoch(&self) -> &Arc<Epoch> {
        &self.epoch
    }

    /// What the fabric carries at the moment, for those who look.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Waits until the sources are exhausted or told to stop, and everything is written.
    ///
    /// # Errors
    ///
    /// A source failed, in which case the others are stopped; or intervals could not be written.
    ///
    /// # Panics
    ///
    /// A thread did.
    pub fn join(self) -> Result<(), PipelineError> {
        let mut result = Ok(());
        for worker in self.workers {
            if let Err(error) = finish(worker) {
                self.epoch.stop();
                result = Err(PipelineError::Receive(error));
            }
        }
        finish(self.flusher);
        self.writers.into_iter().for_each(finish);
        finish(self.keeper);
        self.backlog.settle();
        let (kept, lost) = self.backlog.left();
        if kept > 0 {
            tracing::warn!("{kept} intervals wait on disk, and are written after the next start");
        }
        if lost > 0 {
            self.state.write().intervals_dropped += lost as u64;
            tracing::error!("gave up {lost} intervals");
            return result.and(Err(PipelineError::IntervalsLost(lost)));
        }
        result
    }
}

fn spawn<T: Send + 'static>(
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, PipelineError> {
    thread::Builder::new().name(name).spawn(body).map_err(PipelineError::Thread)
}

fn finish<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
