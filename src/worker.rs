//! The corridor: one thread walks a batch of datagrams through receive, decode, resolve and
//! count, and hands its ledger over at an epoch change.
//!
//! A ledger covers part of one step. It ends where the step does, by the stamps of the batches,
//! or where the epoch number moves: a new plan, a flush on request, or the end. Bytes and packets
//! are thus counted by the plan under which they came, and to the step in which they came.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{io, iter};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender};

use crate::agent::{Desk, EGRESS, INGRESS, Notes};
use crate::count::{Hit, Ledger};
use crate::decode::ethernet::{Encapsulation, Frame, Inner, UsualFrame};
use crate::decode::{CountersSample, Datagram, FlowSample, Visitor};
use crate::ixp::{IpProtocol, Mac, VlanTag};
use crate::loss::Loss;
use crate::receive::{BATCH_MAX, Batch, Source};
use crate::resolve::{Direction, Plan, VXLAN_PORT};
use crate::sightings::{End, Lesson, Lookout, SHARE, Stray, SwitchPort};
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

/// The same: the packet went out of several interfaces.
const INTERFACE_FORMAT_SEVERAL: u32 = 2;

/// The same, as input: the device itself.
const INTERFACE_INTERNAL: u32 = 0x3fff_ffff;

/// UDP ports by which VXLAN is known where nothing is set: IANA's, and Linux's of old.
const VXLAN_PORTS: [u16; 2] = [VXLAN_PORT, 8_472];

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
    lookout: Lookout,
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
            lookout: Lookout::default(),
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
                        // Nothing came for a while at any of its sockets.
                        let drained = count == 0;
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
        if self.number > 0 {
            return;
        }
        let behind_secs = behind_millis.div_ceil(1_000);
        if set_back {
            tracing::error!(
                "the clock was set back by {behind_secs} s, into time that is counted already: \
                 what comes until it is where it was reaches no file, and is counted as \
                 clock_set_back"
            );
        } else {
            tracing::info!("the clock is where it was, and samples count again");
        }
        self.state.set_clock_set_back(set_back.then_some(behind_secs));
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
                    let hits_before = self.hits.len();
                    let mut walk = Walk {
                        plan: &self.plan,
                        notes,
                        hits: &mut self.hits,
                        lookout: &mut self.lookout,
                        agent: datagram.header.agent_address,
                        stamp_millis: self.stamp_millis,
                    };
                    datagram.visit(&mut walk);
                    walk.notes.totals.counted += (walk.hits.len() - hits_before) as u64;
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
            self.state.sightings.fold(&mut self.lookout, &self.plan, self.stamp_millis);
            self.desk.set_core_ports(&self.state.sightings.core_map());
            self.state.set_socket_drops(self.number, self.source.socket_drops());
        }
    }
}

/// A datagram's way from decode to the batch of hits.
struct Walk<'a> {
    plan: &'a Plan,
    notes: &'a mut Notes,
    hits: &'a mut Vec<Hit>,
    lookout: &'a mut Lookout,
    agent: IpAddr,
    stamp_millis: u64,
}

/// What a sample says of its frame, from the raw packet header or the sampled Ethernet record.
#[derive(Clone, Copy)]
struct Sampled<'a> {
    frame: Frame<'a>,
    frame_length_bytes: u32,
    captured_bytes: usize,
}

impl<'a> Sampled<'a> {
    fn of(sample: &FlowSample<'a>) -> Result<Sampled<'a>, Loss> {
        let ethernet =
            sample.raw_packet_header.filter(|raw| raw.protocol == HEADER_PROTOCOL_ETHERNET);
        if let Some(raw) = ethernet {
            Ok(Sampled {
                frame: Frame::parse(raw.header)?,
                frame_length_bytes: raw.frame_length_bytes,
                captured_bytes: raw.header.len(),
            })
        } else if let Some(ethernet) = sample.sampled_ethernet {
            let frame = Frame::untagged(ethernet.source, ethernet.destination, ethernet.ether_type);
            let frame_length_bytes = ethernet.frame_length_bytes;
            Ok(Sampled { frame, frame_length_bytes, captured_bytes: 0 })
        } else {
            Err(Loss::NoEthernet)
        }
    }

    /// As [`is_plausible`].
    fn is_plausible(&self) -> bool {
        is_plausible(self.frame_length_bytes, self.captured_bytes)
    }
}

/// Whether a frame is as long as frames are, and as what was captured of it.
#[inline]
fn is_plausible(frame_length_bytes: u32, captured_bytes: usize) -> bool {
    FRAME_BYTES.contains(&frame_length_bytes) && frame_length_bytes as usize >= captured_bytes
}

/// The VLANs of the extended switch record.
#[inline]
fn switch_vlans(sample: &FlowSample<'_>) -> [VlanTag; 2] {
    sample.extended_switch.map_or([VlanTag::NONE; 2], |switch| {
        [VlanTag::new(switch.source_vlan), VlanTag::new(switch.destination_vlan)]
    })
}

/// The ifIndex of the port at which a frame came in; none where the sample does not tell, or it
/// came from the switch itself.
fn input_port(sample: &FlowSample<'_>) -> Option<u32> {
    let known =
        sample.input().format == 0 && ![0, INTERFACE_INTERNAL].contains(&sample.input().value);
    known.then_some(sample.input().value)
}

/// Whether a sample teaches something: one in [`SHARE`] of each data source, and if it comes
/// twice, both times.
#[inline]
fn teaches(sample: &FlowSample<'_>) -> bool {
    sample.sequence_number().wrapping_mul(0x9e37_79b1) < u32::MAX / SHARE
}

/// On the path a sample stays in registers: what is off it is given copies, because a reference
/// would keep all of every sample in memory.
impl Walk<'_> {
    /// Counts what nearly every sample is, if nothing is set for its agent: IP of two members on a
    /// VLAN of the table. It is what [`Walk::resolve`] does with such a sample, and nothing where
    /// there is more to ask.
    #[inline(always)]
    fn count_usual(
        &mut self,
        sample: &FlowSample<'_>,
        direction: usize,
        sampling_rate: u32,
    ) -> Option<()> {
        let raw = sample.raw_packet_header?;
        let frame = UsualFrame::parse(raw.header)?;
        let frame_length_bytes = raw.frame_length_bytes;
        let usual = self.notes.is_plain()
            && sample.output().format != INTERFACE_FORMAT_DISCARDED
            && direction != EGRESS
            && sampling_rate != 0
            && raw.protocol == HEADER_PROTOCOL_ETHERNET
            && is_plausible(frame_length_bytes, raw.header.len());
        if !usual {
            return None;
        }
        let vlan = if frame.tag.is_some() { frame.tag } else { switch_vlans(sample)[0] };
        let cell = self.plan.table.usual_pair(vlan, frame.source, frame.destination)?;
        if teaches(sample) && self.lookout.has_room() {
            let sample = *sample;
            self.learn(&sample, frame.source, frame.destination, cell, sampling_rate);
        }
        // Here, where its parts are in registers: a hit that is returned goes through memory.
        self.hits.push(Hit { cell, sampling_rate, frame_length_bytes, protocol: frame.protocol });
        Some(())
    }

    /// Counts any sample by its table and the policy of its agent.
    fn resolve(
        &mut self,
        sample: &FlowSample<'_>,
        direction: usize,
        sampling_rate: u32,
    ) -> Result<(), Loss> {
        if sample.output().format == INTERFACE_FORMAT_DISCARDED {
            return Err(Loss::Discarded);
        }
        let plain = self.notes.is_plain();
        let policy_direction = if plain { Direction::Ingress } else { self.notes.policy.direction };
        match policy_direction {
            Direction::Ingress if direction == EGRESS => return Err(Loss::Direction),
            Direction::Egress if direction == INGRESS => return Err(Loss::Direction),
            Direction::None => return Err(Loss::Direction),
            _ => {}
        }
        if sampling_rate == 0 {
            return Err(Loss::RateZero);
        }
        let sampled = Sampled::of(sample)?;
        let Sampled { frame, frame_length_bytes, .. } = sampled;
        let protocol = frame.protocol.ok_or(Loss::NotIp)?;
        if !sampled.is_plausible() {
            return Err(Loss::ImplausibleLength);
        }
        let cell = if self.notes.policy.is_by_table() {
            let table = &self.plan.table;
            let vlan = table.vlan(frame.tags(), switch_vlans(sample)).map_err(|_| {
                if table.cell_count() == 0 { Loss::NoTable } else { Loss::UnknownVlan }
            })?;
            table.pair(vlan, frame.source, frame.destination)?
        } else {
            self.pair_by_policy(sample, &frame, switch_vlans(sample))?
        };
        self.settle(sample, &frame, cell, sampling_rate, frame_length_bytes, protocol)
    }

    /// A sample whose pair is known counts, unless it was taken on a link between switches.
    fn settle(
        &mut self,
        sample: &FlowSample<'_>,
        frame: &Frame<'_>,
        cell: u32,
        sampling_rate: u32,
        frame_length_bytes: u32,
        protocol: IpProtocol,
    ) -> Result<(), Loss> {
        if teaches(sample) && self.lookout.has_room() {
            self.learn(sample, frame.source, frame.destination, cell, sampling_rate);
        }
        if !self.notes.core_ports.is_empty() && self.is_at_core_port(sample) {
            return Err(Loss::CorePort);
        }
        self.hits.push(Hit { cell, sampling_rate, frame_length_bytes, protocol });
        Ok(())
    }

    #[cold]
    fn is_at_core_port(&self, sample: &FlowSample<'_>) -> bool {
        input_port(sample).is_some_and(|port| self.notes.core_ports.binary_search(&port).is_ok())
    }

    /// Where a MAC comes in, and by what the sample is known if it comes again.
    #[cold]
    fn learn(
        &mut self,
        sample: &FlowSample<'_>,
        source: Mac,
        destination: Mac,
        cell: u32,
        packets: u32,
    ) {
        let at_egress = self.notes.policy.direction == Direction::Egress;
        let Some(if_index) = input_port(sample).filter(|_| !at_egress) else { return };
        let identity = [
            u64::from(sample.sequence_number()) << 32 | u64::from(sample.sample_pool()),
            sample.data_source().as_u64(),
            source.as_u64(),
            destination.as_u64() << 16,
        ];
        let identity = identity.iter().fold(0u64, |hash, word| {
            (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        });
        let (vli, _) = self.plan.table.vlis_of(cell);
        self.lookout.learn(Lesson {
            agent: self.agent,
            if_index,
            source,
            vli,
            identity,
            packets,
            stamp_millis: self.stamp_millis,
        });
    }

    /// The pair of a frame by all that the policy says of its agent, and the one VLAN on which
    /// both ends are where nothing says any.
    fn pair_by_policy(
        &mut self,
        sample: &FlowSample<'_>,
        frame: &Frame<'_>,
        switch: [VlanTag; 2],
    ) -> Result<u32, Loss> {
        let (table, policy) = (&self.plan.table, &self.notes.policy);
        if table.cell_count() == 0 {
            return Err(Loss::NoTable);
        }
        let (source, destination) = (frame.source, frame.destination);
        let pair = |vlan| table.pair_on(policy.infrastructure, vlan, source, destination);
        let vlan = table.vlan_by(policy, input_port(sample), frame.tags(), switch);
        let told = vlan.map_err(|_| Loss::UnknownVlan).and_then(pair);
        let unknown = [Loss::UnknownVlan, Loss::UnknownSource, Loss::UnknownDestination];
        let Err(loss) = told else { return told };
        let names_one = frame.tags().chain(switch).any(|vlan| vlan.is_some());
        if names_one || policy.untagged_vlan.is_some() || !unknown.contains(&loss) {
            return told;
        }
        if let Some(vlan) = table.common_vlan(policy.infrastructure, source, destination) {
            let cell = pair(vlan)?;
            self.notes.totals.vlan_inferred += 1;
            return Ok(cell);
        }
        Err(if destination.is_group() {
            // Whatever the VLAN.
            pair(VlanTag::NONE).err().unwrap_or(Loss::Multicast)
        } else if table.memberships(source).is_empty() {
            Loss::UnknownSource
        } else if table.memberships(destination).is_empty() {
            Loss::UnknownDestination
        } else {
            loss
        })
    }

    /// Counts a sample, by a second look if not at first sight, or the loss of it.
    #[inline(never)]
    fn count_any(&mut self, sample: &FlowSample<'_>, direction: usize, sampling_rate: u32) {
        let resolved = match self.resolve(sample, direction, sampling_rate) {
            Err(loss) => self.look_again(sample, sampling_rate, loss),
            counted => counted,
        };
        if let Err(loss) = resolved {
            self.notes.totals.losses.count(loss);
        }
    }

    /// A second look at a sample that did not count by its table alone: at the VLAN that it does
    /// not tell, at the frame inside of its frame; and what is to be said of it.
    #[cold]
    fn look_again(
        &mut self,
        sample: &FlowSample<'_>,
        sampling_rate: u32,
        loss: Loss,
    ) -> Result<(), Loss> {
        let looked_at = [
            Loss::NotIp,
            Loss::UnknownVlan,
            Loss::Broadcast,
            Loss::Multicast,
            Loss::UnknownSource,
            Loss::UnknownDestination,
        ];
        if !looked_at.contains(&loss) {
            return Err(loss);
        }
        let outer = Sampled::of(sample)?;
        let frame = &outer.frame;
        let switch = switch_vlans(sample);
        let loss = match (self.pair_by_policy(sample, frame, switch), frame.protocol) {
            (Ok(cell), Some(protocol)) => {
                let bytes = outer.frame_length_bytes;
                return self.settle(sample, frame, cell, sampling_rate, bytes, protocol);
            }
            // Between two members, whatever is inside; or nobody knows a member.
            (Ok(_) | Err(Loss::SameVli | Loss::AcrossInfrastructures | Loss::NoTable), None) => {
                return Err(self.say(sample, frame, switch, sampling_rate, Loss::NotIp));
            }
            (Err(loss), _) => loss,
        };
        let decapsulate = self.notes.policy.decapsulate;
        let vxlan_ports = decapsulate.vxlan_port.map_or(VXLAN_PORTS, |port| [port; 2]);
        if let Some(inner) = frame.inner(&vxlan_ports) {
            let wanted = match inner.encapsulation {
                Encapsulation::Vxlan => decapsulate.vxlan_port.is_some(),
                Encapsulation::Mpls => decapsulate.mpls,
                Encapsulation::Pbb => decapsulate.pbb,
            };
            if wanted {
                return self.resolve_inner(sample, sampling_rate, &outer, &inner);
            }
            if !frame.destination.is_group() {
                let stray = self.stray(sample, frame, switch, sampling_rate);
                self.lookout.encapsulated(inner.encapsulation, inner.port, &stray);
                return Err(Loss::Encapsulated);
            }
        }
        let loss = if frame.protocol.is_some() { loss } else { Loss::NotIp };
        Err(self.say(sample, frame, switch, sampling_rate, loss))
    }

    /// The frame inside of a sample's frame, of an agent that decapsulates: its bytes are those
    /// of the outer one less what wraps it.
    fn resolve_inner(
        &mut self,
        sample: &FlowSample<'_>,
        sampling_rate: u32,
        outer: &Sampled<'_>,
        inner: &Inner<'_>,
    ) -> Result<(), Loss> {
        if !outer.is_plausible() {
            return Err(Loss::ImplausibleLength);
        }
        // The record's VLAN may be one of the backbone.
        let switch = switch_vlans(sample);
        let policy = &self.notes.policy;
        let is_known = |vlan: VlanTag| {
            let alone = self.plan.table.vlan_by(
                policy,
                input_port(sample),
                iter::once(vlan),
                [VlanTag::NONE; 2],
            );
            vlan.is_some() && alone.is_ok()
        };
        let switch = switch.map(|vlan| if is_known(vlan) { vlan } else { VlanTag::NONE });
        // What looks like a control word may be the address of a frame without one: what the table
        // knows is right, else what is IP.
        let mut likely: Result<Frame<'_>, Loss> = Err(Loss::HeaderTruncated);
        for header in inner.behind_control_word.into_iter().chain([inner.header]) {
            let Ok(frame) = Frame::parse(header) else { continue };
            let removed = outer.captured_bytes.saturating_sub(header.len());
            let bytes =
                outer.frame_length_bytes.saturating_sub(u32::try_from(removed).unwrap_or(0));
            if let Some(protocol) = frame.protocol {
                if let Ok(cell) = self.pair_by_policy(sample, &frame, switch) {
                    return self.settle(sample, &frame, cell, sampling_rate, bytes, protocol);
                }
                likely = likely.ok().filter(|frame| frame.protocol.is_some()).map_or(Ok(frame), Ok);
            } else {
                likely = likely.or(Ok(frame));
            }
        }
        let frame = likely?;
        let loss = match frame.protocol {
            Some(_) => self.pair_by_policy(sample, &frame, switch).err(),
            None => None,
        };
        Err(self.say(sample, &frame, switch, sampling_rate, loss.unwrap_or(Loss::NotIp)))
    }

    fn stray(
        &self,
        sample: &FlowSample<'_>,
        frame: &Frame<'_>,
        switch: [VlanTag; 2],
        sampling_rate: u32,
    ) -> Stray {
        let policy = &self.notes.policy;
        let if_index = input_port(sample);
        let vlan = self.plan.table.vlan_by(policy, if_index, frame.tags(), switch);
        Stray {
            port: SwitchPort { agent: self.agent, if_index },
            vlan: vlan.unwrap_or_else(|meant| meant),
            source: frame.source,
            destination: frame.destination,
            packets: sampling_rate,
            stamp_millis: self.stamp_millis,
        }
    }

    /// Keeps what is to be told of a frame that does not count, and returns why it does not.
    fn say(
        &mut self,
        sample: &FlowSample<'_>,
        frame: &Frame<'_>,
        switch: [VlanTag; 2],
        sampling_rate: u32,
        loss: Loss,
    ) -> Loss {
        if let Some(address) = frame.announced() {
            self.lookout.announced(frame.source, address);
        }
        let stray = self.stray(sample, frame, switch, sampling_rate);
        match loss {
            Loss::NotIp => self.lookout.ether_type(frame.ether_type, &stray),
            Loss::UnknownVlan => self.lookout.unknown_vlan(&stray, self.plan),
            Loss::UnknownSource => self.lookout.unknown_mac(End::Source, &stray, self.plan),
            Loss::UnknownDestination if sample.output().format == INTERFACE_FORMAT_SEVERAL => {
                return Loss::Flooded;
            }
            Loss::UnknownDestination => {
                self.lookout.unknown_mac(End::Destination, &stray, self.plan);
            }
            _ => {}
        }
        loss
    }
}

impl Visitor for Walk<'_> {
    #[inline(always)]
    fn flow_sample(&mut self, sample: &FlowSample<'_>) {
        let (direction, sampling_rate) = self.notes.flow_sample(sample);
        if self.count_usual(sample, direction, sampling_rate).is_none() {
            let sample = *sample;
            self.count_any(&sample, direction, sampling_rate);
        }
    }

    fn counters_sample(&mut self, sample: &CountersSample) {
        self.notes.counters_sample(sample);
    }

    #[cold]
    fn refused(&mut self, loss: Loss, times: u64) {
        self.notes.totals.losses.count_many(loss, times);
    }
}
