//! ixflow: from a switch's sFlow datagram to a graph in the portal of an internet exchange point.
//!
//! The daemon receives sFlow v5 from the exchange's switches, works out which member sends how
//! much to which other member, and keeps the RRD files from which IXP Manager draws its
//! peer-to-peer graphs. This page is the map of the code, in the order in which a sample takes it.
//!
//! ```text
//! switch --UDP--> receive --> decode --> resolve --> count ==epoch==> flush --> sink --> rrdcached | RRD files
//!                 `------------- worker (N threads) -------------'   `- 1 thread -'  `- 1 a share -'
//!                                    ^ Plan (table, policy)             | Interval
//!                 control plane: control . command   (main thread; a tokio thread each for control and HTTP)
//! ```
//!
//! # The words
//!
//! - [`ixp`]: the vocabulary of an exchange: MAC, VLAN tag, infrastructure, VLI, IP protocol.
//! - [`loss`]: every reason why something received is not counted, by name.
//! - [`finding`]: what looks wrong, why it matters, and what mends it.
//! - [`clock`]: time as an input, so that a day can be driven through the path in seconds.
//! - [`table`]: the hash table of the look-ups that every sample makes.
//!
//! # The rooms, in the order of the path
//!
//! - [`receive`]: datagrams in batches from sockets of a worker's own; [`receive::capture`] is
//!   the same from pcap files.
//! - [`decode`]: sFlow v5, by declared length, borrowed, without allocation;
//!   [`decode::ethernet`] reads the sampled header.
//! - [`resolve`]: the [`resolve::Plan`]: which MAC is which VLI, and what the policy says.
//! - [`count`]: the [`count::Ledger`] of a worker: pair of VLIs to bytes, packets, samples.
//!
//! These four do not import each other; the next ones import what is before them.
//!
//! - [`agent`]: what is known of each agent: totals, losses, sequence gaps, drops, rates.
//! - [`sightings`]: what the samples show of the fabric: unknown addresses, core ports, copies.
//! - [`state`]: what the daemon knows of itself, and the [`state::status`] that views render.
//! - [`worker`]: the corridor: one thread takes a batch through the four rooms, and hands its
//!   ledger over where a step ends or the [`worker::Epoch`] moves.
//! - [`flush`]: ledgers become [`flush::Interval`]s, which wait in a [`flush::backlog::Backlog`],
//!   in memory and on disk: [`flush::spool`] has the files, [`flush::format`] what is in them.
//! - [`sink`]: the RRD tree, and what writes it: [`sink::rrdcached`], or [`sink::direct`] by our own
//!   writer of [`sink::file`], which makes new files too, and [`sink::librrd`] for the others;
//!   [`sink::writer`] is the thread that retries, one for each [`sink::Share`] of the tree.
//! - [`pipeline`]: the assembly of all this, for the daemon, a replay, the demo and the tests.
//!
//! # Around the path
//!
//! - [`control`]: settings ([`control::config`], their syntax in [`control::general`]), the
//!   portal's API ([`control::api`]), the service manager ([`control::service`]), and what is
//!   served over HTTP ([`control::web`]).
//! - [`simulate`]: a synthetic exchange that speaks sFlow and knows the truth.
//! - [`command`]: one file per subcommand; `main.rs` calls it and knows exit codes only.

pub mod agent;
pub mod clock;
pub mod command;
pub mod control;
pub mod count;
pub mod decode;
pub mod finding;
pub mod flush;
pub mod ixp;
pub mod loss;
pub mod pipeline;
pub mod receive;
pub mod resolve;
pub mod sightings;
pub mod simulate;
pub mod sink;
pub mod state;
pub mod table;
pub mod worker;
