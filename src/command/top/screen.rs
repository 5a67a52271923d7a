//! What `ixflow top` shows: one table, drawn on a terminal or written as plain text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};

use super::client::{FetchError, Live, Look, Protocol, Query, Rate, Received, Sort, Status, View};
use crate::command::check::duration;
use crate::count::relative_error_percent;
use crate::finding::Level;

/// Rows of a table at the most, whatever the daemon sends.
const ROWS_MAX: usize = 1_000;

/// Characters of a cell at the most.
const CELL_CHARS_MAX: usize = 2_000;

/// Digits of a VLI's number at the most.
const PROMPT_CHARS_MAX: usize = 10;

/// What a key asks of the one who called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// To draw.
    None,
    /// To look at the daemon, for the query is another one.
    Ask,
    /// To end.
    Quit,
}

/// What is shown, and what was last seen.
#[derive(Debug)]
pub(super) struct App {
    pub(super) query: Query,
    url: String,
    look: Option<Look>,
    /// Why the last look failed; what is shown is that of the one before.
    error: Option<String>,
    /// Losses by name at the moment, in milliseconds, of the look before.
    before: Option<(u64, BTreeMap<String, u64>)>,
    /// The first row.
    offset: usize,
    /// The number of a VLI as far as it is typed.
    prompt: Option<String>,
}

/// Rows of text under titles.
#[derive(Default, Debug)]
struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    /// How bad a row is, of tables that say so.
    levels: Vec<Level>,
    /// What is said where there are no rows.
    none: String,
}

/// A column's title, and whether it is of figures.
#[derive(Clone, Copy, Debug)]
enum Column {
    Text(&'static str),
    Figure(&'static str),
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Column::Text(title) | Column::Figure(title) => title,
        }
    }

    /// A cell in so many characters.
    fn pad(self, text: &str, width: usize) -> String {
        match self {
            Column::Text(_) => format!("{text:<width$}"),
            Column::Figure(_) => format!("{text:>width$}"),
        }
    }
}

impl App {
    pub(super) fn new(url: String, query: Query) -> App {
        let (look, error, before, prompt) = (None, None, None, None);
        App { query, url, look, error, before, offset: 0, prompt }
    }

    /// Takes what a look brought.
    pub(super) fn take(&mut self, look: Result<Look, FetchError>) {
        match look {
            Ok(look) => {
                if let Some(before) = &self.look
                    && before.status.now_millis < look.status.now_millis
                {
                    self.before = Some((before.status.now_millis, all_losses(&before.status)));
                }
                self.look = Some(look);
                self.error = None;
            }
            Err(error) => self.error = Some(error.to_string()),
        }
    }

    /// What a key does.
    pub(super) fn key(&mut self, key: KeyEvent) -> Action {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control {
            return if key.code == KeyCode::Char('c') { Action::Quit } else { Action::None };
        }
        if self.prompt.is_some() {
            return self.prompt_key(key.code);
        }
        let before = self.query.clone();
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Action::Quit,
            KeyCode::Char(digit @ '1'..='5') => {
                let index = digit as usize - '1' as usize;
                self.query.view = View::ALL[index];
            }
            KeyCode::Tab | KeyCode::Right => self.turn_view(1),
            KeyCode::BackTab | KeyCode::Left => self.turn_view(View::ALL.len() - 1),
            KeyCode::Char('b') => self.query.sort = Sort::Bits,
            KeyCode::Char('p') => self.query.sort = Sort::Packets,
            KeyCode::Char('e') => self.query.sort = Sort::Error,
            KeyCode::Char('i') => {
                self.query.protocol = match self.query.protocol {
                    Protocol::Both => Protocol::Ipv4,
                    Protocol::Ipv4 => Protocol::Ipv6,
                    Protocol::Ipv6 => Protocol::Both,
                };
            }
            KeyCode::Char('v') => self.turn_vlan(),
            KeyCode::Char('l') => self.prompt = Some(String::new()),
            KeyCode::Down => self.offset = self.offset.saturating_add(1),
            KeyCode::Up => self.offset = self.offset.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.offset = self.offset.saturating_add(20),
            KeyCode::PageUp => self.offset = self.offset.saturating_sub(20),
            KeyCode::Home => self.offset = 0,
            KeyCode::End => self.offset = usize::MAX,
            _ => {}
        }
        let rows = self.table().rows.len();
        self.offset = self.offset.min(rows.saturating_sub(1));
        self.ask_if_other(&before)
    }

    fn ask_if_other(&mut self, before: &Query) -> Action {
        if self.query == *before {
            return Action::None;
        }
        self.offset = 0;
        Action::Ask
    }

    fn prompt_key(&mut self, code: KeyCode) -> Action {
        let before = self.query.clone();
        let Some(prompt) = &mut self.prompt else { return Action::None };
        match code {
            KeyCode::Char(digit) if digit.is_ascii_digit() && prompt.len() < PROMPT_CHARS_MAX => {
                prompt.push(digit);
            }
            KeyCode::Backspace => drop(prompt.pop()),
            KeyCode::Esc => self.prompt = None,
            KeyCode::Enter => {
                // Nothing stands for all.
                self.query.vli = prompt.parse().ok();
                self.prompt = None;
            }
            _ => {}
        }
        self.ask_if_other(&before)
    }

    fn turn_view(&mut self, steps: usize) {
        let at = View::ALL.iter().position(|&view| view == self.query.view).unwrap_or(0);
        self.query.view = View::ALL[(at + steps) % View::ALL.len()];
    }

    /// To the next VLAN of the table.
    fn turn_vlan(&mut self) {
        let Some(live) = self.live().filter(|live| !live.lans.is_empty()) else { return };
        let at = live.lans.iter().position(|lan| Some(*lan) == live.lan);
        let next = live.lans[at.map_or(0, |at| (at + 1) % live.lans.len())];
        self.query.infrastructure = Some(next.infrastructure);
        self.query.vlan = Some(next.vlan);
    }

    fn live(&self) -> Option<&Live> {
        self.look.as_ref().and_then(|look| look.live.as_ref())
    }

    /// Why nothing can be shown, if no VLAN fits the filters.
    pub(super) fn nothing_fits(&self) -> Option<String> {
        let live = self.live().filter(|_| self.query.view.is_live())?;
        if live.lan.is_some() || live.lans.is_empty() {
            return None;
        }
        let mut text = String::from("the MAC table has no");
        // Writing to a String does not fail.
        if let Some(vli) = self.query.vli {
            let _ = write!(text, " VLI {vli}");
        }
        if let Some(vlan) = self.query.vlan {
            let on = if self.query.vli.is_some() { " on" } else { "" };
            let _ = write!(text, "{on} VLAN {vlan}");
        }
        if let Some(infrastructure) = self.query.infrastructure {
            let _ = write!(text, " of infrastructure {infrastructure}");
        }
        let name = |lan: &super::client::Lan| format!("{} of {}", lan.vlan, lan.infrastructure);
        let names: Vec<_> = live.lans.iter().take(10).map(name).collect();
        let _ = write!(text, "; expected one of VLAN {}", names.join(", "));
        if live.lans.len() > names.len() {
            let _ = write!(text, " and {} more", live.lans.len() - names.len());
        }
        Some(text)
    }

    /// The whole as plain text.
    pub(super) fn text(&self) -> String {
        let table = self.table();
        let mut text = String::new();
        for line in self.head() {
            let _ = writeln!(text, "{line}");
        }
        text.push('\n');
        if table.rows.is_empty() {
            let _ = writeln!(text, "{}", table.none);
            return text;
        }
        for line in table.lines() {
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }

    /// What stands above the table: the daemon, and what is selected.
    fn head(&self) -> Vec<String> {
        let Some(look) = &self.look else { return vec![self.url.clone()] };
        let status = &look.status;
        let mut first = format!(
            "ixflow {} at {}, up {}",
            clean(&status.version),
            self.url,
            duration(status.uptime_secs)
        );
        if !status.ready {
            first += "; NOT READY: no MAC table, or no socket";
        }
        let mut second = match status.flow_samples_per_sec {
            Some(rate) => format!("{rate:.0} samples/s; "),
            None => String::new(),
        };
        let received = &status.received;
        if received.flow_samples > 0 {
            let share = 100.0 * received.counted as f64 / received.flow_samples as f64;
            let _ = write!(second, "{share:.1} % of {} counted; ", received.flow_samples);
        }
        let findings = |level| status.findings.iter().filter(|found| found.level == level).count();
        let (fail, warn) = (findings(Level::Fail), findings(Level::Warn));
        let _ = match (fail, warn) {
            (0, 0) => write!(second, "no findings"),
            _ => write!(second, "findings: {fail} fail, {warn} warn"),
        };
        let mut head = vec![first, second];
        if self.query.view.is_live() {
            head.push(self.selection());
        }
        head
    }

    /// Which VLAN, VLI, protocol and order.
    fn selection(&self) -> String {
        let Some(live) = self.live() else { return String::new() };
        let Some(lan) = live.lan else { return self.nothing_fits().unwrap_or_default() };
        let mut text = match lan.vlan {
            0 => "Untagged VLAN".to_owned(),
            vlan => format!("VLAN {vlan}"),
        };
        let several = live.lans.iter().any(|other| other.infrastructure != lan.infrastructure);
        if several {
            let _ = write!(text, " of infrastructure {}", lan.infrastructure);
        }
        let protocol = match self.query.protocol {
            Protocol::Both => "IPv4 and IPv6",
            Protocol::Ipv4 => "IPv4",
            Protocol::Ipv6 => "IPv6",
        };
        let secs = live.to_millis.saturating_sub(live.from_millis) as f64 / 1_000.0;
        let _ = write!(
            text,
            ", {} VLIs: {} {}, {}; {protocol}, last {secs:.0} s",
            lan.vlis,
            bits(live.total.bits_per_sec),
            error(live.total.samples),
            packets(live.total.packets_per_sec),
        );
        if let Some(vli) = self.query.vli {
            let _ = write!(text, "; with VLI {vli}");
        }
        let _ = write!(text, "; by {}", self.query.sort.name());
        text
    }

    fn table(&self) -> Table {
        let Some(look) = &self.look else {
            return Table { none: "Asking.".into(), ..Table::default() };
        };
        let mut table = match self.query.view {
            View::Pairs | View::Members => match &look.live {
                None => Table { none: "Asking.".into(), ..Table::default() },
                Some(live) if !live.ready => {
                    Table { none: "Counting the first seconds.".into(), ..Table::default() }
                }
                Some(live) if self.query.view == View::Pairs => pairs(live),
                Some(live) => members(live),
            },
            View::Agents => agents(&look.status),
            View::Losses => losses(&look.status, self.before.as_ref()),
            View::Findings => findings(&look.status),
        };
        table.rows.truncate(ROWS_MAX);
        for cell in table.rows.iter_mut().flatten() {
            *cell = clean(cell);
        }
        table
    }

    /// Draws the whole screen.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let head = self.head();
        let head_lines = u16::try_from(head.len()).unwrap_or(1);
        let [head_area, tabs_area, table_area, foot_area] = Layout::vertical([
            Constraint::Length(head_lines),
            Constraint::Length(1),
            Constraint::Min(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let head: Vec<Line<'_>> = head.into_iter().map(Line::from).collect();
        frame.render_widget(Paragraph::new(head), head_area);
        frame.render_widget(self.tabs(), tabs_area);
        self.draw_table(frame, table_area);
        frame.render_widget(self.foot(), foot_area);
    }

    fn tabs(&self) -> Line<'static> {
        let mut spans = Vec::new();
        for (index, view) in View::ALL.into_iter().enumerate() {
            let style = if view == self.query.view {
                Style::new().add_modifier(Modifier::REVERSED)
            } else {
                Style::new()
            };
            spans.push(Span::styled(format!(" {} {} ", index + 1, view.title()), style));
        }
        Line::from(spans)
    }

    fn draw_table(&self, frame: &mut Frame<'_>, area: Rect) {
        let table = self.table();
        if table.rows.is_empty() {
            frame.render_widget(Paragraph::new(table.none).wrap(Wrap { trim: true }), area);
            return;
        }
        let offset = self.offset.min(table.rows.len() - 1);
        let height = usize::from(area.height);
        let levels = table.levels.iter().map(Some).chain(std::iter::repeat(None));
        let mut lines = table.lines().into_iter();
        let title = lines.next().unwrap_or_default();
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let mut drawn = vec![Line::styled(title, bold)];
        for (line, level) in lines.zip(levels).skip(offset).take(height) {
            let style = match level {
                Some(Level::Fail) => Style::new().fg(Color::Red),
                Some(Level::Warn) => Style::new().fg(Color::Yellow),
                _ => Style::new(),
            };
            drawn.push(Line::styled(line, style));
        }
        let mut paragraph = Paragraph::new(drawn);
        if self.query.view == View::Findings {
            // Sentences, which end beyond the edge.
            paragraph = paragraph.wrap(Wrap { trim: false });
        }
        frame.render_widget(paragraph, area);
    }

    fn foot(&self) -> Line<'static> {
        if let Some(prompt) = &self.prompt {
            return Line::from(format!("VLI: {prompt}_  (Enter: shows it; empty: all; Esc: back)"));
        }
        if let Some(error) = &self.error {
            return Line::styled(clean(error), Style::new().fg(Color::Red));
        }
        let keys = if self.query.view.is_live() {
            "q quit  Tab view  b p e by bits, packets, error  i IPv4/IPv6  v VLAN  l VLI  arrows"
        } else {
            "q quit  Tab view  arrows"
        };
        Line::styled(keys, Style::new().add_modifier(Modifier::DIM))
    }
}

impl Table {
    /// Titles and rows, cells padded to the widest of their column.
    fn lines(&self) -> Vec<String> {
        let mut widths: Vec<usize> =
            self.columns.iter().map(|column| column.title().chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let titles = self.columns.iter().map(|column| column.title());
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded = cells.zip(self.columns.iter().zip(&widths));
            let padded: Vec<_> =
                padded.map(|(cell, (column, &width))| column.pad(cell, width)).collect();
            padded.join("  ").trim_end().to_owned()
        };
        let mut lines = vec![line(&mut titles.into_iter())];
        lines.extend(self.rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
        lines
    }
}

fn pairs(live: &Live) -> Table {
    let rows = live.pairs.iter().map(|pair| {
        vec![
            pair.source.to_string(),
            pair.destination.to_string(),
            bits(pair.rate.bits_per_sec),
            packets(pair.rate.packets_per_sec),
            error(pair.rate.samples),
            frame_length(pair.rate),
            pair.rate.samples.to_string(),
        ]
    });
    Table {
        columns: vec![
            Column::Figure("FROM VLI"),
            Column::Figure("TO VLI"),
            Column::Figure("BITS"),
            Column::Figure("PACKETS"),
            Column::Figure("ERROR"),
            Column::Figure("FRAME"),
            Column::Figure("SAMPLES"),
        ],
        rows: rows.collect(),
        none: "Nobody speaks.".into(),
        ..Table::default()
    }
}

fn members(live: &Live) -> Table {
    let rows = live.members.iter().map(|member| {
        vec![
            member.vli.to_string(),
            bits(member.out.bits_per_sec),
            packets(member.out.packets_per_sec),
            error(member.out.samples),
            bits(member.into.bits_per_sec),
            packets(member.into.packets_per_sec),
            error(member.into.samples),
            (member.out.samples + member.into.samples).to_string(),
        ]
    });
    Table {
        columns: vec![
            Column::Figure("VLI"),
            Column::Figure("SENDS"),
            Column::Figure("PACKETS"),
            Column::Figure("ERROR"),
            Column::Figure("RECEIVES"),
            Column::Figure("PACKETS"),
            Column::Figure("ERROR"),
            Column::Figure("SAMPLES"),
        ],
        rows: rows.collect(),
        none: "Nobody speaks.".into(),
        ..Table::default()
    }
}

fn agents(status: &Status) -> Table {
    let mut agents: Vec<_> = status.agents.iter().collect();
    let weight = |agent: &super::client::Agent| agent.flow_samples_per_sec.unwrap_or(0.0);
    agents.sort_by(|a, b| weight(b).total_cmp(&weight(a)).then(a.address.cmp(&b.address)));
    let mut rows: Vec<_> = agents
        .into_iter()
        .map(|agent| {
            let name = match agent.sub_agent_id {
                0 => agent.address.clone(),
                id => format!("{} / {id}", agent.address),
            };
            let [lowest, highest] = agent.sampling_rates;
            let sampling_rate = match (lowest, highest) {
                (0, 0) => "-".to_owned(),
                (lowest, highest) if lowest == highest => lowest.to_string(),
                (lowest, highest) => format!("{lowest}-{highest}"),
            };
            let rate = agent.flow_samples_per_sec.map(|rate| format!("{rate:.0}"));
            let silent_millis = status.now_millis.saturating_sub(agent.last_seen_millis);
            let last_seen = format!("{} ago", duration(silent_millis / 1_000));
            agent_row(name, rate, &agent.received, sampling_rate, last_seen)
        })
        .collect();
    let others = status.agents_known.saturating_sub(status.agents.len());
    if others > 0 {
        let name = format!("{others} others");
        rows.push(agent_row(name, None, &status.other_agents, "-".into(), "-".into()));
    }
    Table {
        columns: vec![
            Column::Text("AGENT"),
            Column::Figure("SAMPLES/S"),
            Column::Figure("SAMPLES"),
            Column::Figure("COUNTED"),
            Column::Figure("GAPS"),
            Column::Figure("DROPS"),
            Column::Figure("1 IN"),
            Column::Figure("LAST SEEN"),
            Column::Text("MOST LOST AS"),
        ],
        rows,
        none: "No agent was heard yet.".into(),
        ..Table::default()
    }
}

fn agent_row(
    name: String,
    rate: Option<String>,
    received: &Received,
    sampling_rate: String,
    last_seen: String,
) -> Vec<String> {
    let most = received.losses.iter().max_by_key(|&(_, count)| count);
    vec![
        name,
        rate.unwrap_or_else(|| "-".to_owned()),
        received.flow_samples.to_string(),
        received.counted.to_string(),
        received.sequence_gaps.to_string(),
        received.agent_drops.to_string(),
        sampling_rate,
        last_seen,
        most.map_or("-".to_owned(), |(name, count)| format!("{name} {count}")),
    ]
}

/// Everything that is not counted: what was received, by reason, and what was not received.
fn all_losses(status: &Status) -> BTreeMap<String, u64> {
    let mut losses = status.received.losses.clone();
    losses.insert("socket_drops".into(), status.socket_drops.unwrap_or(0));
    losses.insert("sequence_gaps".into(), status.received.sequence_gaps);
    losses.insert("agent_drops".into(), status.received.agent_drops);
    losses
}

fn losses(status: &Status, before: Option<&(u64, BTreeMap<String, u64>)>) -> Table {
    let mut losses: Vec<_> =
        all_losses(status).into_iter().filter(|&(_, count)| count > 0).collect();
    losses.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let of = |received: &Received, name: &str| match name {
        "sequence_gaps" => received.sequence_gaps,
        "agent_drops" => received.agent_drops,
        name => received.losses.get(name).copied().unwrap_or(0),
    };
    let rows = losses.into_iter().map(|(name, count)| {
        let rate = before.map(|(millis, losses)| {
            let secs = status.now_millis.saturating_sub(*millis).max(1) as f64 / 1_000.0;
            let earlier = losses.get(&name).copied().unwrap_or(0);
            format!("{:.1}", count.saturating_sub(earlier) as f64 / secs)
        });
        let most = status.agents.iter().max_by_key(|agent| of(&agent.received, &name));
        let most = most.map(|agent| (&agent.address, of(&agent.received, &name)));
        let most = most.filter(|&(_, count)| count > 0);
        vec![
            name,
            count.to_string(),
            rate.unwrap_or_else(|| "-".to_owned()),
            most.map_or("-".to_owned(), |(address, count)| format!("{address} {count}")),
        ]
    });
    Table {
        columns: vec![
            Column::Text("REASON"),
            Column::Figure("COUNT"),
            Column::Figure("PER SECOND"),
            Column::Text("MOST OF AGENT"),
        ],
        rows: rows.collect(),
        none: "Nothing was lost.".into(),
        ..Table::default()
    }
}

/// As `ixflow check` prints them.
fn findings(status: &Status) -> Table {
    let rows = status.findings.iter().map(|found| {
        let about =
            if found.subject.is_empty() { String::new() } else { format!(" ({})", found.subject) };
        let sentences = [&found.what, &found.why, &found.remedy];
        let sentences: Vec<_> =
            sentences.into_iter().filter(|text| !text.is_empty()).map(String::as_str).collect();
        vec![found.level.to_string(), format!("{}{about}: {}", found.name, sentences.join("; "))]
    });
    Table {
        columns: vec![Column::Text("LEVEL"), Column::Text("FINDING")],
        rows: rows.collect(),
        levels: status.findings.iter().map(|found| found.level).collect(),
        none: "Nothing looks wrong.".into(),
    }
}

/// Text of others, without what a terminal would obey, and no longer than a cell may be.
fn clean(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(CELL_CHARS_MAX).map(shown).collect()
}

/// A rate in the unit in which it has one to three digits before the point.
fn scaled(value: f64, unit: &str) -> String {
    let mut value = value;
    let mut prefixes = ["", "k", "M", "G", "T", "P"].into_iter();
    let mut prefix = prefixes.next().unwrap_or_default();
    while value >= 999.5
        && let Some(next) = prefixes.next()
    {
        value /= 1_000.0;
        prefix = next;
    }
    let digits = match value {
        _ if value == 0.0 => 0,
        _ if value < 9.995 => 2,
        _ if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {prefix}{unit}")
}

fn bits(per_sec: f64) -> String {
    scaled(per_sec, "bit/s")
}

fn packets(per_sec: f64) -> String {
    scaled(per_sec, "pkt/s")
}

/// The relative error, which 19 of 20 rates do not exceed.
fn error(samples: u64) -> String {
    let percent = relative_error_percent(samples);
    match samples {
        0 => "-".to_owned(),
        _ if percent >= 100.0 => "over 100 %".to_owned(),
        _ if percent < 9.95 => format!("±{percent:.1} %"),
        _ => format!("±{percent:.0} %"),
    }
}

fn frame_length(rate: Rate) -> String {
    if rate.packets_per_sec > 0.0 {
        format!("{:.0} B", rate.bits_per_sec / 8.0 / rate.packets_per_sec)
    } else {
        "-".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    fn received(flow_samples: u64) -> serde_json::Value {
        json!({
            "flow_samples": flow_samples, "counted": flow_samples - 30, "sequence_gaps": 7,
            "agent_drops": 0, "losses": { "not_ip": 20, "unknown_source": 10 },
        })
    }

    fn status(now_millis: u64) -> Status {
        let agent = |address: &str, rate: f64| {
            json!({
                "address": address, "sub_agent_id": 0, "received": received(1_000),
                "flow_samples_per_sec": rate, "sampling_rates": [509, 509],
                "last_seen_millis": now_millis - 3_000,
            })
        };
        serde_json::from_value(json!({
            "version": "9.9.9", "now_millis": now_millis, "uptime_secs": 7_200, "ready": true,
            "received": received(2_000), "flow_samples_per_sec": 100.0, "socket_drops": null,
            "agents_known": 5, "agents": [agent("192.0.2.1", 40.0), agent("192.0.2.2", 60.0)],
            "other_agents": received(300),
            "findings": [{
                "level": "fail", "name": "egress_samples", "subject": "192.0.2.1",
                "what": "all samples were taken at egress\u{1b}[2J", "why": "they do not count",
                "remedy": "set direction = egress",
            }],
        }))
        .unwrap()
    }

    fn live() -> Live {
        let rate = |bits: f64, samples: u64| json!({ "bits_per_sec": bits, "packets_per_sec": bits / 8_000.0, "samples": samples });
        let pair = |source: u32, destination: u32, bits: f64, samples: u64| {
            let mut pair = rate(bits, samples);
            pair["source"] = source.into();
            pair["destination"] = destination.into();
            pair
        };
        let lan = |vlan: u32| json!({ "infrastructure": 1, "vlan": vlan, "vlis": 4 });
        serde_json::from_value(json!({
            "ready": true, "from_millis": 10_000, "to_millis": 20_000, "lans": [lan(10), lan(20)],
            "lan": lan(10), "total": rate(3e9, 400), "cells": [[0, 0, 1.0, 1.0, 1]],
            "members": [{ "vli": 4, "out": rate(2e9, 100), "in": rate(0.0, 0) }],
            "pairs": [pair(4, 2, 2e9, 100), pair(3, 2, 123_456.0, 1)],
        }))
        .unwrap()
    }

    fn app(view: View) -> App {
        let query = Query { view, rows: 10, ..Query::default() };
        let mut app = App::new("http://127.0.0.1:6343".into(), query);
        app.take(Ok(Look { status: status(100_000), live: view.is_live().then(live) }));
        app
    }

    fn drawn(app: &App, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| app.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let rows = buffer.content.chunks(width.into());
        let rows = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>());
        rows.map(|row| row.trim_end().to_owned() + "\n").collect()
    }

    fn press(app: &mut App, code: KeyCode) -> Action {
        app.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn pairs_have_their_error_beside_the_rate() {
        let expected = [
            "ixflow 9.9.9 at http://127.0.0.1:6343, up 2 h",
            "100 samples/s; 98.5 % of 2000 counted; findings: 1 fail, 0 warn",
            "VLAN 10, 4 VLIs: 3.00 Gbit/s ±9.8 %, 375 kpkt/s; IPv4 and IPv6, last 10 s; by bits",
            " 1 Pairs  2 Members  3 Agents  4 Losses  5 Findings",
            "FROM VLI  TO VLI         BITS     PACKETS       ERROR   FRAME  SAMPLES",
            "       4       2  2.00 Gbit/s  250 kpkt/s       ±20 %  1000 B      100",
            "       3       2   123 kbit/s  15.4 pkt/s  over 100 %  1000 B        1",
        ];
        let screen = drawn(&app(View::Pairs), 100, 9);
        assert_eq!(screen.lines().take(7).collect::<Vec<_>>(), expected, "\n{screen}");
        assert!(screen.lines().last().unwrap().starts_with("q quit"), "{screen}");
        // The same without a terminal, but for tabs and keys.
        let text = app(View::Pairs).text();
        let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines, [&expected[..3], &expected[4..]].concat());
    }

    #[test]
    fn every_view_has_what_it_is_for() {
        let text = app(View::Members).text();
        let row: Vec<_> = text.lines().last().unwrap().split_ascii_whitespace().collect();
        assert_eq!(row[..7], ["4", "2.00", "Gbit/s", "250", "kpkt/s", "±20", "%"]);
        assert_eq!(row[7..], ["0", "bit/s", "0", "pkt/s", "-", "100"]);

        let text = app(View::Agents).text();
        let rows: Vec<_> = text.lines().rev().take(3).collect();
        assert!(rows[2].starts_with("192.0.2.2"), "busiest first\n{text}");
        assert!(rows[2].ends_with(" 509    3 s ago  not_ip 20"), "{text}");
        assert!(rows[0].starts_with("3 others           -      300"), "{text}");

        let mut app = app(View::Losses);
        let mut later = status(102_000);
        later.received.losses.insert("not_ip".into(), 30);
        app.take(Ok(Look { status: later, live: None }));
        let text = app.text();
        let rows: Vec<Vec<_>> =
            text.lines().skip(4).map(|line| line.split_ascii_whitespace().collect()).collect();
        assert_eq!(rows[0], ["not_ip", "30", "5.0", "192.0.2.2", "20"], "{text}");
        assert_eq!(rows[1][..3], ["unknown_source", "10", "0.0"], "{text}");
        assert_eq!(rows[2][..3], ["sequence_gaps", "7", "0.0"], "{text}");
        assert_eq!(rows.len(), 3, "what did not occur is left out\n{text}");
    }

    #[test]
    fn text_of_others_moves_no_cursor() {
        let app = app(View::Findings);
        let text = app.text();
        assert!(!text.contains('\u{1b}'), "{text:?}");
        let said = "fail   egress_samples (192.0.2.1): all samples were taken at egress [2J; they \
                    do not count; set direction = egress";
        assert!(text.contains(said), "{text}");
        // On a screen that is too narrow for a sentence it goes on in the next line.
        let screen = drawn(&app, 60, 12);
        assert!(screen.contains("set direction"), "{screen}");
    }

    #[test]
    fn keys_sort_filter_and_quit() {
        let mut app = app(View::Pairs);
        assert_eq!(press(&mut app, KeyCode::Char('p')), Action::Ask);
        assert_eq!(app.query.sort, Sort::Packets);
        assert_eq!(press(&mut app, KeyCode::Char('p')), Action::None, "nothing new to ask");
        assert_eq!(press(&mut app, KeyCode::Char('e')), Action::Ask);
        assert!(app.text().contains("; by error"));
        for protocol in [Protocol::Ipv4, Protocol::Ipv6, Protocol::Both] {
            assert_eq!(press(&mut app, KeyCode::Char('i')), Action::Ask);
            assert_eq!(app.query.protocol, protocol);
        }
        assert_eq!(press(&mut app, KeyCode::Char('v')), Action::Ask);
        assert_eq!((app.query.infrastructure, app.query.vlan), (Some(1), Some(20)));

        // A number is typed: letters are none, and Esc leaves the prompt alone.
        press(&mut app, KeyCode::Char('l'));
        for key in ['4', 'q', '2', '7'] {
            assert_eq!(press(&mut app, KeyCode::Char(key)), Action::None);
        }
        press(&mut app, KeyCode::Backspace);
        assert!(drawn(&app, 60, 9).contains("VLI: 42_"));
        assert_eq!(press(&mut app, KeyCode::Enter), Action::Ask);
        assert_eq!(app.query.vli, Some(42));
        press(&mut app, KeyCode::Char('l'));
        assert_eq!(press(&mut app, KeyCode::Esc), Action::None);
        assert_eq!(app.query.vli, Some(42));
        press(&mut app, KeyCode::Char('l'));
        assert_eq!(press(&mut app, KeyCode::Enter), Action::Ask);
        assert_eq!(app.query.vli, None);

        press(&mut app, KeyCode::Char('4'));
        assert_eq!(app.query.view, View::Losses);
        press(&mut app, KeyCode::Tab);
        press(&mut app, KeyCode::Tab);
        assert_eq!(app.query.view, View::Pairs);
        press(&mut app, KeyCode::BackTab);
        assert_eq!(app.query.view, View::Findings);
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(press(&mut app, code), Action::Quit);
        }
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        press(&mut app, KeyCode::Char('l'));
        assert_eq!(app.key(interrupt), Action::Quit, "also while a number is typed");
    }

    #[test]
    fn rows_scroll_and_no_screen_is_too_small() {
        let mut app = app(View::Pairs);
        for _ in 0..5 {
            press(&mut app, KeyCode::Down);
        }
        let screen = drawn(&app, 100, 9);
        assert!(screen.contains("over 100 %") && !screen.contains("2.00 Gbit/s"), "{screen}");
        press(&mut app, KeyCode::Home);
        assert!(drawn(&app, 100, 9).contains("2.00 Gbit/s"));
        press(&mut app, KeyCode::End);
        for (width, height) in [(1, 1), (3, 2), (20, 4), (300, 100)] {
            drawn(&app, width, height);
        }
    }

    #[test]
    fn an_error_is_said_and_the_last_figures_stay() {
        let mut app = app(View::Pairs);
        app.take(Err(FetchError::new("http://127.0.0.1:6343/status.json", "no answer")));
        let screen = drawn(&app, 100, 9);
        assert!(screen.contains("http://127.0.0.1:6343/status.json: no answer"), "{screen}");
        assert!(screen.contains("2.00 Gbit/s"), "{screen}");
        app.take(Ok(Look { status: status(104_000), live: Some(live()) }));
        assert!(!drawn(&app, 100, 9).contains("no answer"));
    }

    #[test]
    fn a_filter_that_nothing_fits_says_what_there_is() {
        let mut app = app(View::Pairs);
        assert_eq!(app.nothing_fits(), None);
        app.query.vlan = Some(99);
        let nothing = Live { lan: None, pairs: Vec::new(), ..live() };
        app.take(Ok(Look { status: status(104_000), live: Some(nothing) }));
        let said = "the MAC table has no VLAN 99; expected one of VLAN 10 of 1, 20 of 1";
        assert_eq!(app.nothing_fits().unwrap(), said);
        assert!(drawn(&app, 100, 9).contains(said));
    }

    #[test]
    fn figures_have_three_digits() {
        let shown = [0.0, 1.0, 9.996, 99.96, 999.4, 999.5, 1e12, 3.2e18].map(bits);
        assert_eq!(
            shown,
            [
                "0 bit/s",
                "1.00 bit/s",
                "10.0 bit/s",
                "100 bit/s",
                "999 bit/s",
                "1.00 kbit/s",
                "1.00 Tbit/s",
                "3200 Pbit/s",
            ]
        );
        assert_eq!(
            [0, 3, 4, 384, 40_000].map(error),
            ["-", "over 100 %", "±98 %", "±10 %", "±1.0 %"]
        );
    }
}
