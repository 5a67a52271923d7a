//! The corridor: one thread walks a batch of datagrams through receive, decode, resolve and
//! count, and hands its ledger over at an epoch change.
//!
//! A ledger covers part of one step. It ends where the step does, by the stamps of the batches,
//! or where the epoch number moves: a new plan, a flush on request, or the end. Bytes and packets
//! are thus counted by the plan under which they came, and to the step in which they came.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{io, iter};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender};

use crate::agent::{Desk, EGRESS, INGRESS, Notes};
use crate::count::{Hit, Ledger};
use crate::decode::ethernet::Frame;
use crate::decode::{CountersSample, Datagram, FlowSample, Visitor};
use crate::ixp::{IpProtocol, Mac, VlanTag};
use crate::loss::Loss;
use crate::receive::{BATCH_MAX, Batch, Source};
use crate::resolve::{Direction, MacTable, Plan};
use crate::state::State;

/// Frames outside this range of bytes are implausible: the shortest Ethernet frame, and more
/// than any switch forwards.
const FRAME_BYTES: std::ops::RangeInclusive<u32> = 64..=16_384;

/// A clock that is set back by no more than this stands still until it is where it was. What comes
/// while it is further back belongs to time that is written, or will be: no file can take it.
const SET_BACK_MAX_MILLIS: u64 = 5_000;

/// Where nothing was received for longer than this, not even that there is nothing, the machine
/// slept or its clock was set forward: what went by is not known, and must not be taken for
/// silence. The step of the files, so that no interval is longer than their heartbeat.
const GAP_MAX_MILLIS: u64 = 300_000;

/// What the socket still holds when the daemon is told to stop is read, but no longer than this.
const DRAIN_MILLIS: u64 = 500;

/// enum header_protocol (sFlow v5, section 5): ETHERNET-ISO8023.
const HEADER_PROTOCOL_ETHERNET: u32 = 1;

/// struct interface (sFlow v5, section 5): the packet was discarded.
const INTERFACE_FORMAT_DISCARDED: u32 = 1;

/// The epoch, by which the control plane speaks to all workers.
#[derive(Debug)]
pub struct Epoch {
    number: AtomicU64,
    plan: ArcSwap<Plan>,
    stop: AtomicBool,
    flush: AtomicU64,
}

impl Epoch {
    /// The first epoch, with its plan.
    pub fn new(plan: Plan) -> Epoch {
        Epoch {
            number: AtomicU64::new(0),
            plan: ArcSwap::from_pointee(plan),
            stop: AtomicBool::new(false),
            flush: AtomicU64::new(0),
        }
    }

    /// The plan in force.
    pub fn plan(&self) -> Arc<Plan> {
        self.plan.load_full()
    }

    /// Replaces the plan; samples from now on are resolved by it.
    pub fn set_plan(&self, plan: Arc<Plan>) {
        self.plan.store(plan);
        self.advance();
    }

    /// Makes every worker hand its ledger over; returns the new epoch's number.
    pub fn advance(&self) -> u64 {
        self.number.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Makes every worker hand its ledger over, and the flusher hand on what it has; returns the
    /// new epoch's number.
    pub fn request_flush(&self) -> u64 {
        let number = self.advance();
        self.flush.fetch_max(number, Ordering::AcqRel);
        number
    }

    /// The last epoch for which a flush was requested.
    pub fn flush_requested(&self) -> u64 {
        self.flush.load(Ordering::Acquire)
    }

    /// Makes every worker read what its socket holds, hand its ledger over, and end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.advance();
    }
}

/// A ledger on its way to the flusher.
#[derive(Debug)]
pub struct Handover {
    /// Which worker.
    pub worker: usize,
    /// The epoch that the worker is in from now on.
    pub epoch: u64,
    /// Start of what the ledger covers, in milliseconds since 1970.
    pub from_millis: u64,
    /// Its end.
    pub to_millis: u64,
    /// The counts.
    pub ledger: Ledger,
    /// What they were resolved by.
    pub plan: Arc<Plan>,
    /// They came while the clock showed a time that was over: no file can take them.
    pub set_back: bool,
    /// The worker has ended.
    pub last: bool,
}

/// One worker, before and while it runs.
pub struct Worker<S> {
    number: usize,
    source: S,
    desk: Desk,
    epoch: Arc<Epoch>,
    epoch_number: u64,
    plan: Arc<Plan>,
    ledger: Ledger,
    hits: Vec<Hit>,
    step_millis: u64,
    /// Start of what the ledger covers; none before the first batch.
    from_millis: Option<u64>,
    boundary_millis: u64,
    /// The time up to which was counted; it never falls.
    stamp_millis: u64,
    /// What the clock showed at the last batch.
    clock_millis: u64,
    /// The clock is further behind the stamp than it may be.
    set_back: bool,
    observed_millis: u64,
    out: Sender<Handover>,
    spares: Receiver<Ledger>,
    state: Arc<State>,
}

impl<S: Source> Worker<S> {
    /// A worker that observes from `from_millis` (none: its source's first stamp) and ends its
    /// ledgers at the multiples of `step_secs`.
    #[expect(clippy::too_many_arguments, reason = "the one place where the rooms are joined")]
    pub fn new(
        number: usize,
        source: S,
        from_millis: Option<u64>,
        step_secs: u32,
        epoch: Arc<Epoch>,
        out: Sender<Handover>,
        spares: Receiver<Ledger>,
        state: Arc<State>,
    ) -> Worker<S> {
        let epoch_number = epoch.number.load(Ordering::Acquire);
        let plan = epoch.plan();
        Worker {
            number,
            source,
            desk: Desk::new(state.agents.clone()),
            epoch,
            epoch_number,
            ledger: Ledger::new(plan.table.cell_count()),
            plan,
            hits: Vec::with_capacity(BATCH_MAX * 16),
            step_millis: u64::from(step_secs) * 1_000,
            from_millis,
            boundary_millis: u64::MAX,
            stamp_millis: 0,
            clock_millis: from_millis.unwrap_or_default(),
            set_back: false,
            observed_millis: 0,
            out,
            spares,
            state,
        }
    }

    /// Walks batches until the source ends, or the epoch says stop.
    ///
    /// # Errors
    ///
    /// The source failed, as a socket does whose interface is gone. What was counted is handed
    /// over first.
    pub fn run(mut self) -> io::Result<()> {
        if let Some(from) = self.from_millis {
            self.begin(from);
        }
        let state = self.state.clone();
        let pulse = state.workers.get(self.number);
        pulse.inspect(|pulse| pulse.turn());
        let mut stopping_since = None;
        let result = loop {
            pulse.inspect(|pulse| pulse.beat());
            match self.source.receive() {
                Ok(Batch::Datagrams { count, stamp_millis }) => {
                    // Read now, so that the batch is counted by the plan that is in force.
                    let number = self.epoch.number.load(Ordering::Acquire);
                    self.advance(stamp_millis, number);
                    for index in 0..count {
                        self.datagram(index);
                    }
                    self.ledger.count(&self.hits);
                    self.hits.clear();
                    self.observe(false);
                    if self.epoch.stop.load(Ordering::Acquire) {
                        let since = *stopping_since.get_or_insert(stamp_millis);
                        let drained = count < BATCH_MAX;
                        if drained || stamp_millis.saturating_sub(since) >= DRAIN_MILLIS {
                            break Ok(());
                        }
                    }
                }
                Ok(Batch::End) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.observe(true);
        self.hand_over(self.stamp_millis, true);
        pulse.inspect(|pulse| pulse.turn());
        result
    }

    /// Starts the first ledger, or the next one behind a hole.
    fn begin(&mut self, from_millis: u64) {
        self.from_millis = Some(from_millis);
        self.stamp_millis = self.stamp_millis.max(from_millis);
        self.boundary_millis = (from_millis / self.step_millis + 1) * self.step_millis;
    }

    /// Brings the time to `clock_millis`: hands over what ends before.
    #[inline]
    fn advance(&mut self, clock_millis: u64, epoch_number: u64) {
        self.clock_millis = clock_millis;
        if self.from_millis.is_none() {
            self.begin(clock_millis);
        }
        if clock_millis < self.stamp_millis || self.set_back {
            self.fall_back();
        }
        if clock_millis > self.stamp_millis {
            let last_millis = std::mem::replace(&mut self.stamp_millis, clock_millis);
            if clock_millis >= self.boundary_millis {
                self.cross(last_millis);
            }
        }
        if epoch_number != self.epoch_number {
            self.epoch_number = epoch_number;
            self.hand_over(self.stamp_millis, false);
            let plan = self.epoch.plan();
            if !Arc::ptr_eq(&plan, &self.plan) {
                self.desk.set_policy(&plan.policy);
                self.plan = plan;
                self.ledger = Ledger::new(self.plan.table.cell_count());
            }
        }
    }

    /// The clock shows less than it did: keeps what comes now apart from what was counted before,
    /// until the clock is where it was.
    #[cold]
    fn fall_back(&mut self) {
        let behind_millis = self.stamp_millis.saturating_sub(self.clock_millis);
        let set_back = behind_millis > SET_BACK_MAX_MILLIS || (self.set_back && behind_millis > 0);
        if set_back == self.set_back {
            return;
        }
        self.hand_over(self.stamp_millis, false);
        self.set_back = set_back;
        // What the clock does it does to all workers: one says so.
        match (self.number, set_back) {
            (0, true) => tracing::error!(
                "the clock was set back by {} s, into time that is counted already: what comes \
                 until it is where it was reaches no file, and is counted as clock_set_back",
                behind_millis.div_ceil(1_000)
            ),
            (0, false) => tracing::info!("the clock is where it was, and samples count again"),
            _ => {}
        }
    }

    #[cold]
    fn cross(&mut self, last_millis: u64) {
        if self.stamp_millis - last_millis > GAP_MAX_MILLIS {
            self.hand_over(last_millis, false);
            self.begin(self.stamp_millis);
        } else {
            self.hand_over(self.boundary_millis, false);
            self.boundary_millis = (self.stamp_millis / self.step_millis + 1) * self.step_millis;
        }
    }

    fn hand_over(&mut self, to_millis: u64, last: bool) {
        let cell_count = self.plan.table.cell_count();
        let spare = if last { Some(Ledger::new(0)) } else { self.spares.try_recv().ok() };
        let fresh = match spare {
            Some(ledger) if last || ledger.cell_count() == cell_count => ledger,
            _ => Ledger::new(cell_count),
        };
        let handover = Handover {
            worker: self.number,
            epoch: self.epoch_number,
            from_millis: self.from_millis.unwrap_or(to_millis),
            to_millis,
            ledger: std::mem::replace(&mut self.ledger, fresh),
            plan: self.plan.clone(),
            set_back: self.set_back,
            last,
        };
        self.from_millis = Some(to_millis);
        // The flusher outlives the workers; were it gone, there would be nobody to count for.
        let _ = self.out.send(handover);
    }

    #[inline]
    fn datagram(&mut self, index: usize) {
        let received = self.source.datagram(index);
        let address = received.source.ip();
        let refused = if !self.plan.policy.allows(address) {
            Some(Loss::SourceRefused)
        } else if received.truncated {
            Some(Loss::DatagramOversized)
        } else {
            match Datagram::parse(received.payload) {
                Ok(datagram) => {
                    let notes = self.desk.datagram(
                        &datagram.header,
                        address,
                        self.stamp_millis,
                        &self.plan.policy,
                    );
                    let table = &self.plan.table;
                    datagram.visit(&mut Walk { table, notes, hits: &mut self.hits });
                    None
                }
                Err(loss) => Some(loss),
            }
        };
        if let Some(loss) = refused {
            self.desk.refused(address, loss);
        }
    }

    /// Lets others see what was counted, once a second.
    #[inline]
    fn observe(&mut self, now: bool) {
        // By the clock, which may be behind the stamp.
        if now || self.clock_millis.abs_diff(self.observed_millis) >= 1_000 {
            self.observed_millis = self.clock_millis;
            self.desk.fold(self.stamp_millis, true);
            self.state.set_socket_drops(self.number, self.source.socket_drops());
        }
    }
}

/// A datagram's way from decode to the batch of hits.
struct Walk<'a> {
    table: &'a MacTable,
    notes: &'a mut Notes,
    hits: &'a mut Vec<Hit>,
}

/// What a sample says of its frame, from the raw packet header or the sampled Ethernet record.
struct Sampled {
    source: Mac,
    destination: Mac,
    protocol: Option<IpProtocol>,
    frame_length_bytes: u32,
    captured_bytes: usize,
}

impl Walk<'_> {
    #[inline]
    fn resolve(&mut self, sample: &FlowSample<'_>) -> Result<Hit, Loss> {
        let (direction, sampling_rate) = self.notes.flow_sample(sample);
        if sample.output.format == INTERFACE_FORMAT_DISCARDED {
            return Err(Loss::Discarded);
        }
        match self.notes.policy.direction {
            Direction::Ingress if direction == EGRESS => return Err(Loss::Direction),
            Direction::Egress if direction == INGRESS => return Err(Loss::Direction),
            _ => {}
        }
        if sampling_rate == 0 {
            return Err(Loss::RateZero);
        }
        let switch = sample.extended_switch.map_or([VlanTag::NONE; 2], |switch| {
            [VlanTag::new(switch.source_vlan), VlanTag::new(switch.destination_vlan)]
        });
        let ethernet =
            sample.raw_packet_header.filter(|raw| raw.protocol == HEADER_PROTOCOL_ETHERNET);
        let (sampled, vlan) = if let Some(raw) = ethernet {
            let frame = Frame::parse(raw.header)?;
            let sampled = Sampled {
                source: frame.source,
                destination: frame.destination,
                protocol: frame.protocol,
                frame_length_bytes: raw.frame_length_bytes,
                captured_bytes: raw.header.len(),
            };
            (sampled, self.table.vlan(frame.tags(), switch))
        } else if let Some(ethernet) = sample.sampled_ethernet {
            let sampled = Sampled {
                source: ethernet.source,
                destination: ethernet.destination,
                protocol: IpProtocol::from_ether_type(ethernet.ether_type),
                frame_length_bytes: ethernet.frame_length_bytes,
                captured_bytes: 0,
            };
            (sampled, self.table.vlan(iter::empty(), switch))
        } else {
            return Err(Loss::NoEthernet);
        };
        let protocol = sampled.protocol.ok_or(Loss::NotIp)?;
        let frame_length_bytes = sampled.frame_length_bytes;
        if !FRAME_BYTES.contains(&frame_length_bytes)
            || (frame_length_bytes as usize) < sampled.captured_bytes
        {
            return Err(Loss::ImplausibleLength);
        }
        let vlan = vlan.map_err(|_| {
            if self.table.cell_count() == 0 { Loss::NoTable } else { Loss::UnknownVlan }
        })?;
        let cell = self.table.pair(vlan, sampled.source, sampled.destination)?;
        Ok(Hit { cell, sampling_rate, frame_length_bytes, protocol })
    }
}

impl Visitor for Walk<'_> {
    #[inline]
    fn flow_sample(&mut self, sample: &FlowSample<'_>) {
        match self.resolve(sample) {
            Ok(hit) => {
                self.notes.totals.counted += 1;
                self.hits.push(hit);
            }
            Err(loss) => self.notes.totals.losses.count(loss),
        }
    }

    fn counters_sample(&mut self, _sample: &CountersSample) {
        self.notes.totals.counters_samples += 1;
    }

    #[cold]
    fn refused(&mut self, loss: Loss, times: u64) {
        self.notes.totals.losses.count_many(loss, times);
    }
}
