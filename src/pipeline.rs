//! The assembly: threads for the data path, from sources to a sink.
//!
//! One thread a worker, one that flushes, one that writes. Every command that takes datagrams
//! through the path starts it here, so that a replay and the demo are the real thing.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::bounded;

use crate::flush::{Backlog, Flusher, WhenFull};
use crate::receive::Source;
use crate::resolve::Plan;
use crate::sink::{Sink, writer};
use crate::state::State;
use crate::worker::{Epoch, Worker};

/// Ledgers on their way to the flusher at the most: it does nothing but merge them, so that a
/// worker never waits for long.
const HANDOVERS_MAX: usize = 64;

/// How the path is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Seconds between two boundaries.
    pub step_secs: u32,
    /// Start of observation, in milliseconds since 1970; none: the first stamp of each source.
    pub from_millis: Option<u64>,
    /// Intervals that wait for the sink at the most.
    pub backlog_max: usize,
    /// What happens to further ones.
    pub when_full: WhenFull,
}

/// The path at work.
pub struct Pipeline {
    epoch: Arc<Epoch>,
    workers: Vec<JoinHandle<io::Result<()>>>,
    flusher: JoinHandle<()>,
    writer: JoinHandle<usize>,
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
    /// Starts one worker for each source, which is made in the worker's thread.
    pub fn start<S: Source>(
        sources: Vec<impl FnOnce() -> S + Send + 'static>,
        plan: Plan,
        setup: Setup,
        mut sink: Box<dyn Sink>,
        state: &Arc<State>,
    ) -> Result<Pipeline, PipelineError> {
        let epoch = Arc::new(Epoch::new(plan));
        let backlog = Arc::new(Backlog::new(setup.backlog_max, setup.when_full, state.clone()));
        let (out, handovers) = bounded(HANDOVERS_MAX);
        let mut spares = Vec::with_capacity(sources.len());
        let mut workers = Vec::with_capacity(sources.len());
        for (number, source) in sources.into_iter().enumerate() {
            let (spare, spares_of_worker) = bounded(1);
            spares.push(spare);
            let (epoch, out, state) = (epoch.clone(), out.clone(), state.clone());
            workers.push(spawn(format!("worker-{number}"), move || {
                let Setup { step_secs, from_millis, .. } = setup;
                let spares = spares_of_worker;
                let source = source();
                Worker::new(number, source, from_millis, step_secs, epoch, out, spares, state).run()
            })?);
        }
        drop(out);
        let flusher =
            Flusher::new(setup.step_secs, epoch.clone(), handovers, spares, backlog.clone());
        let pulses = state.clone();
        let flusher = spawn("flush".into(), move || flusher.run(&pulses.flusher))?;
        let state = state.clone();
        let writer = spawn("write".into(), move || writer::run(&backlog, sink.as_mut(), &state))?;
        Ok(Pipeline { epoch, workers, flusher, writer })
    }

    /// The epoch, for new plans, flushes on request and the end.
    pub fn epoch(&self) -> &Arc<Epoch> {
        &self.epoch
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
        match finish(self.writer) {
            0 => result,
            lost => result.and(Err(PipelineError::IntervalsLost(lost))),
        }
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
