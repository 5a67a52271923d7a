//! Datagrams spread over workers by the kernel, with nothing miscounted.
#![cfg(target_os = "linux")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use crossbeam_channel::bounded;
use ixflow::agent::Agents;
use ixflow::clock::Clock;
use ixflow::receive::{UdpSockets, spread_datagrams};
use ixflow::resolve::{MacTable, Plan, Policy};
use ixflow::simulate::Fabric;
use ixflow::state::State;
use ixflow::worker::{Epoch, Worker};

const DATAGRAMS: usize = 4_000;

/// What an unprivileged process gets by default (net.core.rmem_default) holds some 180 datagrams.
const BURST: usize = 100;

/// Sends what one agent says from one socket to two workers, but for every `lost`th datagram;
/// returns datagrams by worker and what the state knows.
fn send(agent: &str, listen: &str, lost: Option<usize>) -> ([u64; 2], Arc<State>) {
    let fabric = Fabric::from_toml(&format!("[[switch]]\nagent = \"{agent}\"")).unwrap();
    let (table, _) = MacTable::build(&fabric.mac_table()).unwrap();
    let epoch = Arc::new(Epoch::new(Plan { table, policy: Policy::default() }));
    let state = Arc::new(State::new(Agents::new(8, 64).heard_in_parts(), 2));

    let any: SocketAddr = listen.parse().unwrap();
    let first = UdpSockets::bind(&[any], 16 << 20).unwrap();
    let target = first.local_addresses()[0];
    let sockets = vec![first, UdpSockets::bind(&[target], 16 << 20).unwrap()];
    spread_datagrams(&sockets).unwrap();

    let (out, handovers) = bounded(64);
    let workers: Vec<_> = (0..)
        .zip(sockets)
        .map(|(number, sockets)| {
            let (epoch, out, state) = (epoch.clone(), out.clone(), state.clone());
            std::thread::spawn(move || {
                let (_spare, spares) = bounded(1);
                let source = sockets.into_source(Clock::System);
                Worker::new(number, source, None, 300, epoch, out, spares, state).run().unwrap();
            })
        })
        .collect();
    drop(out);

    let mut generator = fabric.generator(Clock::System.now_millis(), 1_000_000);
    let sender = UdpSocket::bind((any.ip(), 0)).unwrap();
    for (number, (_, payload)) in generator.render(DATAGRAMS).iter().enumerate() {
        // What is missing in front of the first and behind the last cannot be known.
        if lost.is_none_or(|lost| number % lost != lost / 2) {
            sender.send_to(payload, target).unwrap();
        }
        if number % BURST == 0 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    epoch.stop();
    workers.into_iter().for_each(|worker| worker.join().unwrap());

    let mut samples = [0; 2];
    for handover in handovers {
        let counted = handover.ledger.iter().map(|(_, traffic)| traffic.samples);
        samples[handover.worker] += counted.map(|[v4, v6]| u64::from(v4 + v6)).sum::<u64>();
    }
    assert_eq!(state.socket_drops(), Some(0));
    (samples, state)
}

#[test]
fn two_workers_share_the_datagrams_of_one_agent() {
    for (agent, listen) in [("192.0.2.1", "127.0.0.1:0"), ("2001:db8::1", "[::1]:0")] {
        let (samples, state) = send(agent, listen, None);
        let totals = state.agents.totals();
        assert_eq!(totals.datagrams, DATAGRAMS as u64, "{agent}");
        assert_eq!(samples[0], samples[1], "{agent}: each datagram the next worker");
        assert_eq!(samples[0] + samples[1], totals.counted);
        let (sequence, _) = state.agents.sequence_counts();
        assert_eq!((sequence.gaps, sequence.resets), (0, 0), "{agent}");
        let agents = state.agents.list();
        let state = agents[0].state();
        let sample_gaps: u64 = state.sources.values().map(|source| source.sample_gaps).sum();
        assert_eq!((agents.len(), sample_gaps), (1, 0), "{agent}");
    }
}

#[test]
fn what_is_lost_is_missed_exactly() {
    let (samples, state) = send("192.0.2.1", "127.0.0.1:0", Some(50));
    let lost = DATAGRAMS as u64 / 50;
    assert_eq!(state.agents.totals().datagrams, DATAGRAMS as u64 - lost);
    assert!(samples.iter().all(|&samples| samples > 0), "{samples:?}");
    let (sequence, _) = state.agents.sequence_counts();
    assert_eq!((sequence.gaps, sequence.resets), (lost, 0));
}
