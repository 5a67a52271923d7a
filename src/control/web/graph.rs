//! `/graph.png`: a file of the tree as a picture, drawn by librrd on a thread of its own.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use crossbeam_channel::{Sender, bounded};
use foldhash::fast::FixedState;
use serde::Deserialize;
use tokio::sync::oneshot;

use crate::ixp::{InfrastructureId, IpProtocol, Unit, VlanTag, VliId};
use crate::sink::File;
use crate::sink::librrd::graph_png;

/// Graphs that wait to be drawn; who asks for more is told to come back.
const WAITING_MAX: usize = 16;

/// A graph is shown again for so long.
const KEPT: Duration = Duration::from_secs(30);

/// Graphs that are kept.
const KEPT_MAX: usize = 64;

/// What is asked for.
#[derive(Clone, Debug, Deserialize)]
pub struct Query {
    source: Option<u32>,
    destination: Option<u32>,
    vlan: Option<u32>,
    infrastructure: Option<u32>,
    protocol: String,
    unit: String,
    period: Period,
}

/// How much time a graph shows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Period {
    Day,
    Week,
    Month,
    Year,
}

impl Period {
    /// As IXP Manager's Grapher has them.
    const fn secs(self) -> u64 {
        match self {
            Period::Day => 33 * 3_600,
            Period::Week => 8 * 86_400,
            Period::Month => 35 * 86_400,
            Period::Year => 380 * 86_400,
        }
    }
}

impl Query {
    /// The file that is meant, and the title.
    pub fn file(&self) -> Option<(File, String)> {
        let protocol = IpProtocol::ALL.into_iter().find(|p| p.name() == self.protocol)?;
        let unit = Unit::ALL.into_iter().find(|unit| unit.name() == self.unit)?;
        let name = match protocol {
            IpProtocol::V4 => "IPv4",
            IpProtocol::V6 => "IPv6",
        };
        match (self.source, self.destination, self.vlan) {
            (Some(vli), Some(peer), None) => {
                let file = File::Pair { protocol, unit, vli: VliId(vli), peer: VliId(peer) };
                Some((file, format!("VLI {vli} (out: to VLI {peer}), {name}")))
            }
            (Some(vli), None, None) => {
                let file = File::Individual { protocol, unit, vli: VliId(vli) };
                Some((file, format!("VLI {vli}, {name}")))
            }
            (None, None, Some(vlan)) => {
                let vlan = VlanTag::new(vlan);
                let infrastructure = self.infrastructure.map(InfrastructureId);
                let file = File::Aggregate { protocol, unit, vlan, infrastructure };
                let whose = infrastructure.map(|id| format!("infrastructure {}, ", id.0));
                let whose = whose.unwrap_or_default();
                Some((file, format!("{whose}VLAN {vlan}, {name}")))
            }
            _ => None,
        }
    }
}

struct Job {
    file: File,
    title: String,
    from_secs: u64,
    to_secs: u64,
    answer: oneshot::Sender<Result<Bytes, String>>,
}

type Kept = HashMap<(File, Period), (Instant, Bytes), FixedState>;

/// The thread that draws, and what it drew of late.
#[derive(Debug)]
pub struct Drawer {
    jobs: Sender<Job>,
    kept: Mutex<Kept>,
}

/// No graph.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DrawError {
    /// Too many wait.
    #[error("too many graphs are being drawn")]
    Busy,
    /// The file is not there, or is none.
    #[error("{0}")]
    Failed(String),
}

impl Drawer {
    /// A drawer for the tree below `root`.
    ///
    /// # Errors
    ///
    /// No thread.
    pub fn start(root: PathBuf) -> io::Result<Drawer> {
        let (jobs, waiting) = bounded::<Job>(WAITING_MAX);
        std::thread::Builder::new().name("graphs".into()).spawn(move || {
            for job in waiting {
                // Nobody waits for it any more.
                if job.answer.is_closed() {
                    continue;
                }
                let Job { file, title, from_secs, to_secs, answer } = job;
                let png = graph_png(&root, file, &title, from_secs, to_secs);
                let png = png.map(Bytes::from).map_err(|error| error.to_string());
                let _ = answer.send(png);
            }
        })?;
        Ok(Drawer { jobs, kept: Mutex::default() })
    }

    /// Draws a file up to `now_secs`.
    ///
    /// # Errors
    ///
    /// Too many are waiting, or librrd cannot draw it.
    pub async fn draw(
        &self,
        query: &Query,
        file: File,
        title: String,
        now_secs: u64,
    ) -> Result<Bytes, DrawError> {
        let key = (file, query.period);
        {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((made, png)) = kept.get(&key)
                && made.elapsed() < KEPT
            {
                return Ok(png.clone());
            }
        }
        let (answer, drawn) = oneshot::channel();
        let from_secs = now_secs.saturating_sub(query.period.secs());
        let job = Job { file, title, from_secs, to_secs: now_secs, answer };
        self.jobs.try_send(job).map_err(|_| DrawError::Busy)?;
        let png = drawn.await.map_err(|_| DrawError::Busy)?.map_err(DrawError::Failed)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, (made, _)| made.elapsed() < KEPT);
            if kept.len() >= KEPT_MAX {
                kept.clear();
            }
        }
        kept.insert(key, (Instant::now(), png.clone()));
        Ok(png)
    }
}
