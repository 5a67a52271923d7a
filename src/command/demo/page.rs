//! The pages: HTML by hand, with graphs that librrd draws. They need nothing but themselves.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::fs;
use std::path::Path;

use super::check::{Found, Said};
use super::{DemoError, Summary, file_error, grouped, seconds};
use crate::count::{Traffic, relative_error_percent};
use crate::ixp::{IpProtocol, Unit, VlanTag, VliId};
use crate::simulate::Fabric;
use crate::sink::librrd::graph_png;
use crate::sink::{File, STEP_SECS};

/// Pairs on the index page.
const TOP_PAIRS: usize = 8;
/// Peers on the member's page; a fabric of the demo's size has fewer.
const PEERS_MAX: usize = 40;

const STYLE: &str = include_str!("page.css");

/// What the pages show.
pub(super) struct Exchange<'a> {
    pub(super) dir: &'a Path,
    /// The tree.
    pub(super) root: &'a Path,
    pub(super) fabric: &'a Fabric,
    pub(super) said: &'a Said,
    pub(super) summary: &'a Summary,
    pub(super) found: &'a Found,
    /// A word on each, and what to type.
    pub(super) commands: &'a [(&'static str, String)],
}

/// Draws the graphs and writes the pages; returns how many graphs there are.
pub(super) fn write(exchange: &Exchange<'_>) -> Result<usize, DemoError> {
    let members = Members::new(exchange.fabric);
    let mut drawn = Drawn { exchange, members: &members, graphs: 0 };
    let (top_pairs, top_vli) = ranking(exchange);
    let pages = [
        ("index.html", drawn.index(&top_pairs, top_vli)?),
        ("member.html", drawn.member(top_vli)?),
    ];
    for (name, html) in pages {
        let path = exchange.dir.join(name);
        fs::write(&path, html).map_err(file_error(&path))?;
    }
    Ok(drawn.graphs)
}

/// The pairs that exchanged most bytes, and the VLI that did.
fn ranking(exchange: &Exchange<'_>) -> (Vec<(VliId, VliId)>, Option<VliId>) {
    let mut pairs: BTreeMap<(VliId, VliId), u64> = BTreeMap::new();
    let mut vlis: BTreeMap<VliId, u64> = BTreeMap::new();
    for pair in exchange.said.pairs() {
        let bytes = pair.traffic.bytes.iter().sum::<u64>();
        let (a, b) = (pair.source, pair.destination);
        *pairs.entry((a.min(b), a.max(b))).or_default() += bytes;
        *vlis.entry(a).or_default() += bytes;
        *vlis.entry(b).or_default() += bytes;
    }
    let mut ranked: Vec<_> = pairs.into_iter().collect();
    ranked.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    let top = ranked.into_iter().take(TOP_PAIRS).map(|(pair, _)| pair).collect();
    (top, vlis.into_iter().max_by_key(|&(_, bytes)| bytes).map(|(vli, _)| vli))
}

/// Who is behind a VLI: members have ports, and a VLI on each of their VLANs.
struct Members(BTreeMap<VliId, (usize, VlanTag)>);

impl Members {
    fn new(fabric: &Fabric) -> Members {
        Members(fabric.vlis().iter().map(|vli| (vli.id, (vli.port + 1, vli.vlan))).collect())
    }

    fn name(&self, vli: VliId) -> String {
        self.0.get(&vli).map_or_else(|| "nobody".into(), |(member, _)| format!("Member {member}"))
    }

    fn vlan(&self, vli: VliId) -> VlanTag {
        self.0.get(&vli).map_or(VlanTag::NONE, |&(_, vlan)| vlan)
    }
}

/// The pages as they are made, and the graphs that were drawn for them.
struct Drawn<'a> {
    exchange: &'a Exchange<'a>,
    members: &'a Members,
    graphs: usize,
}

impl Drawn<'_> {
    fn index(
        &mut self,
        top_pairs: &[(VliId, VliId)],
        top_vli: Option<VliId>,
    ) -> Result<String, DemoError> {
        let Exchange { fabric, .. } = self.exchange;
        let mut vlans: Vec<VlanTag> = fabric.vlis().iter().map(|vli| vli.vlan).collect();
        vlans.sort_unstable();
        vlans.dedup();
        let mut html = Html::new("ixflow: a simulated exchange");
        html.put(format_args!(
            "<h1>A simulated exchange</h1>\n<p>{} members on {} VLANs and {} switches spoke sFlow \
             to <code>ixflow</code>, which wrote the RRD files behind these graphs. They are drawn \
             by librrd in the style of IXP Manager’s Grapher, from the same files that it reads. \
             {}</p>\n<p>Errors are those of sampling: of 100 rates 95 are off by less. A point of a \
             graph stands for five minutes and their samples alone, so that its error is larger \
             than that of the mean.</p>\n",
            fabric.ports().len(),
            vlans.len(),
            fabric.switches().len(),
            match top_vli {
                Some(vli) => format!(
                    "The page of one member: <a href=\"member.html\">{}</a>.",
                    self.members.name(vli)
                ),
                None => String::new(),
            }
        ));
        self.facts(&mut html);
        for vlan in vlans {
            html.put(format_args!(
                "<h2>VLAN {vlan}, aggregate</h2>\n<p>All that its members exchange. What is sent \
                 on a VLAN is received on it, so that in and out are the same.</p>\n"
            ));
            for protocol in IpProtocol::ALL {
                for unit in Unit::ALL {
                    self.figure(
                        &mut html,
                        File::Aggregate { protocol, unit, vlan, infrastructure: None },
                    )?;
                }
            }
        }
        html.put(format_args!(
            "<h2>Top pairs</h2>\n<p>The {} pairs with most bytes. In is what the peer sent to the \
             member that the file is named after; out is what that member sent.</p>\n",
            top_pairs.len()
        ));
        for &(vli, peer) in top_pairs {
            self.figure(&mut html, pair(IpProtocol::V4, vli, peer))?;
        }
        html.text("<h2>Carry on</h2>\n");
        for (what, command) in self.exchange.commands {
            html.put(format_args!(
                "<p class=\"soft\">{}:</p>\n<pre>{}</pre>\n",
                Escaped(what),
                Escaped(command)
            ));
        }
        Ok(html.end())
    }

    /// What was done, and how it came out.
    fn facts(&self, html: &mut Html) {
        let Exchange { summary, found, .. } = self.exchange;
        let hours = (summary.live_from_secs - summary.from_secs) as f64 / 3600.0;
        let verdict = match found.differing {
            0 => "all as simulated".to_owned(),
            differing => format!("{differing} differences"),
        };
        html.text("<dl>\n");
        for (term, figure, remark) in [
            (
                "Driven from memory",
                format!("{hours:.1} h in {} s", seconds(summary.driven_millis)),
                format!("{} flow samples", grouped(summary.driven_samples)),
            ),
            (
                "Then live over UDP",
                format!("{} s", seconds(summary.live_millis.into())),
                format!("{} flow samples", grouped(summary.live_samples)),
            ),
            (
                "Counted for pairs",
                grouped(summary.counted),
                format!(
                    "{} others, each with its reason, of {} datagrams",
                    grouped(summary.not_counted),
                    grouped(summary.datagrams)
                ),
            ),
            ("RRD files", grouped(summary.files), format!("{} updates", grouped(summary.updates))),
            ("Rows checked, byte by byte", grouped(found.rows), verdict),
        ] {
            html.put(format_args!(
                "<div><dt>{term}</dt><dd>{figure}<small>{remark}</small></dd></div>\n"
            ));
        }
        let open_secs = summary.rows_end_secs() % 86_400;
        html.put(format_args!(
            "</dl>\n<p class=\"soft\">What was counted since {:02}:{:02} UTC is in the files, but is \
             no row of five minutes yet, and not drawn: the first update after that step makes it \
             one.</p>\n",
            open_secs / 3600,
            open_secs / 60 % 60
        ));
    }

    fn member(&mut self, vli: Option<VliId>) -> Result<String, DemoError> {
        let Some(vli) = vli else {
            let mut html = Html::new("ixflow: no member");
            html.text("<h1>Nobody spoke</h1>\n");
            return Ok(html.end());
        };
        let name = self.members.name(vli);
        let vlan = self.members.vlan(vli);
        let mut html = Html::new(&format!("ixflow: {name}"));
        html.put(format_args!(
            "<p><a href=\"index.html\">The exchange</a></p>\n<h1>{name} on VLAN {vlan}</h1>\n\
             <p>VLAN interface (VLI) {} in IXP Manager’s terms: the number in the names of its \
             files.</p>\n<h2>Individual</h2>\n<p>With all peers. In is what the member sent into \
             the fabric, out what it received: the opposite of the graphs per peer, as the portal \
             expects it.</p>\n",
            vli.0
        ));
        for protocol in IpProtocol::ALL {
            for unit in Unit::ALL {
                self.figure(&mut html, File::Individual { protocol, unit, vli })?;
            }
        }
        let mut peers: BTreeMap<VliId, u64> = BTreeMap::new();
        for pair in self.exchange.said.pairs() {
            let bytes = pair.traffic.bytes.iter().sum::<u64>();
            if pair.source == vli {
                *peers.entry(pair.destination).or_default() += bytes;
            } else if pair.destination == vli {
                *peers.entry(pair.source).or_default() += bytes;
            }
        }
        let mut peers: Vec<_> = peers.into_iter().collect();
        peers.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        peers.truncate(PEERS_MAX);
        html.put(format_args!(
            "<h2>Peer to peer</h2>\n<p>{} peers by bytes. In is what the peer sent to {name}, out \
             what {name} sent.</p>\n",
            peers.len()
        ));
        for (peer, _) in peers {
            for protocol in IpProtocol::ALL {
                let file = pair(protocol, vli, peer);
                if self.exchange.said.files().contains(&file) {
                    self.figure(&mut html, file)?;
                }
            }
        }
        Ok(html.end())
    }

    /// Draws a file, and puts the graph with its caption.
    fn figure(&mut self, html: &mut Html, file: File) -> Result<(), DemoError> {
        let Exchange { dir, root, said, summary, .. } = self.exchange;
        let (protocol, unit) = file.family();
        let ip = match protocol {
            IpProtocol::V4 => "IPv4",
            IpProtocol::V6 => "IPv6",
        };
        let (title, subject, parties) = match file {
            File::Aggregate { vlan, .. } => {
                let (vlan, all) = (format!("VLAN {vlan}"), "all members".to_owned());
                (vlan.clone(), vlan, [all.clone(), all])
            }
            File::Individual { vli, .. } => {
                let (name, vlan) = (self.members.name(vli), self.members.vlan(vli));
                (
                    format!("{name} :: VLAN {vlan}"),
                    format!("{name}, VLAN {vlan}"),
                    [format!("{name} to all"), format!("all to {name}")],
                )
            }
            File::Pair { vli, peer, .. } => {
                let (name, other) = (self.members.name(vli), self.members.name(peer));
                let vlan = self.members.vlan(vli);
                (
                    format!("P2P :: {name} - {other} :: VLAN {vlan}"),
                    format!("{name} and {other}, VLAN {vlan}"),
                    [format!("{other} to {name}"), format!("{name} to {other}")],
                )
            }
        };
        // As the portal's titles: who :: what :: protocol.
        let title = format!("ixflow demo :: {title} :: {ip}");
        let png = graph_png(root, file, &title, summary.from_secs, summary.rows_end_secs())
            .map_err(|error| DemoError::Rrd { file, error })?;
        let (width, height) = size(&png);
        let path = file.to_string();
        let base = path.rsplit('/').next().unwrap_or(&path).trim_end_matches(".rrd");
        let image = dir.join("graphs").join(format!("{base}.png"));
        // A pair of the member's may be a top pair too: the same file, the same graph.
        if !image.exists() {
            self.graphs += 1;
        }
        fs::write(&image, png).map_err(file_error(&image))?;

        let heading = match unit {
            Unit::Bytes => format!("{ip}, bits"),
            Unit::Packets => format!("{ip}, packets"),
        };
        let [input, output] = parties;
        let secs = summary.to_secs - summary.from_secs;
        let [input_side, output_side] = said.of(&file);
        let rate = |traffic: &Traffic| mean(traffic, protocol, unit, secs);
        let [input_rate, output_rate] = [rate(&input_side), rate(&output_side)];
        // Each rate with its error; that of a point of the graph is by the samples of its row.
        let cells = |traffic: &Traffic| {
            let samples = u64::from(traffic.samples[protocol as usize]);
            let rows = secs.div_ceil(STEP_SECS).max(1);
            format!(
                "<td>{}</td><td>{}</td><td>{}</td><td>{}</td>",
                rate(traffic),
                error(traffic.error_percent(protocol)),
                error(relative_error_percent(samples / rows)),
                grouped(samples)
            )
        };
        let [input_cells, output_cells] = [cells(&input_side), cells(&output_side)];
        html.put(format_args!(
            "<figure>\n<img src=\"graphs/{base}.png\" width=\"{width}\" height=\"{height}\" \
             alt=\"Graph of {subject}, {heading} per second: {input} {input_rate}, {output} \
             {output_rate} on average\">\n<figcaption>\n<h3>{subject}<br>{heading}</h3>\n<table>\
             <thead><tr><th></th><th></th><th>mean</th><th>its error</th><th>of 5 min</th>\
             <th>samples</th></tr></thead><tbody>\n\
             <tr><td class=\"out\">Out</td><td>{output}</td>{output_cells}</tr>\n\
             <tr><td class=\"in\">In</td><td>{input}</td>{input_cells}</tr>\n\
             </tbody></table>\n<code>rrd/{}</code>\n\
             </figcaption>\n</figure>\n",
            path.replace('/', "/<wbr>")
        ));
        Ok(())
    }
}

fn pair(protocol: IpProtocol, vli: VliId, peer: VliId) -> File {
    File::Pair { protocol, unit: Unit::Bytes, vli, peer }
}

/// Width and height of a PNG (PNG, section 11.2.2: the header is the first chunk).
fn size(png: &[u8]) -> (u32, u32) {
    let number = |at: usize| {
        let bytes = png.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_be_bytes)
    };
    (number(16), number(20))
}

/// A relative error as a cell: two digits say enough.
fn error(percent: f64) -> String {
    match percent {
        _ if !percent.is_finite() => "–".into(),
        ..10.0 => format!("±{percent:.1} %"),
        _ => format!("±{percent:.0} %"),
    }
}

/// The mean rate over `secs`, in bits or packets per second.
fn mean(traffic: &Traffic, protocol: IpProtocol, unit: Unit, secs: u64) -> String {
    let factor = match unit {
        Unit::Bytes => 8.0,
        Unit::Packets => 1.0,
    };
    let mut rate = traffic.of(protocol, unit) as f64 * factor / secs.max(1) as f64;
    let mut prefixes = ["", "k", "M", "G"].into_iter().peekable();
    let mut prefix = prefixes.next().unwrap_or_default();
    while rate >= 1000.0
        && let Some(next) = prefixes.next()
    {
        rate /= 1000.0;
        prefix = next;
    }
    match unit {
        Unit::Bytes => format!("{rate:.2} {prefix}b/s"),
        Unit::Packets => format!("{rate:.2} {prefix}pkt/s"),
    }
}

/// A page on its way.
struct Html(String);

impl Html {
    fn new(title: &str) -> Html {
        let mut html = Html(String::with_capacity(32_768));
        html.put(format_args!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
            Escaped(title)
        ));
        html
    }

    fn text(&mut self, text: &str) {
        self.0.push_str(text);
    }

    fn put(&mut self, arguments: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.0.write_fmt(arguments);
    }

    fn end(mut self) -> String {
        self.text("</body>\n</html>\n");
        self.0
    }
}

/// Text from outside, for HTML.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}
