//! The live page in a real browser: Chromium without a window, told what to do over its DevTools
//! protocol.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::support::http::get;
use crate::support::ixflow::{Ixflow, Site, Speaker};
use crate::support::path::wait_for;

/// How long the browser may take for what is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether there is a Chromium. Where CI is set there must be.
fn has_chromium() -> bool {
    let mut command = Command::new("chromium");
    let found = command.arg("--version").stderr(Stdio::null()).output().is_ok();
    assert!(
        found || std::env::var_os("CI").is_none(),
        "chromium not found: install the Debian package chromium"
    );
    if !found {
        eprintln!("skipped: chromium not found (Debian package chromium)");
    }
    found
}

/// A browser with one page; it is killed when it is dropped.
struct Browser {
    child: Child,
    _profile: tempfile::TempDir,
    socket: WebSocket<TcpStream>,
    /// That of the page, once there is one.
    session: Option<Value>,
    commands: u64,
    /// Events that nobody has waited for yet.
    events: VecDeque<Value>,
    /// What was logged or thrown, and should not have been.
    complaints: Vec<Value>,
}

impl Browser {
    fn start() -> Browser {
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new("chromium")
            .args(["--headless=new", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"])
            // The tests may run as root or in a container, where its sandbox cannot; it is shown
            // our own page only.
            .args(["--no-sandbox", "--remote-debugging-port=0", "--disable-background-networking"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines
            .by_ref()
            .map(Result::unwrap)
            .find(|line| line.starts_with("DevTools listening on "))
            .expect("the address of the DevTools");
        // Its further words must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let (_, rest) = line.split_once("ws://").unwrap();
        let address: SocketAddr = rest.split('/').next().unwrap().parse().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client(format!("ws://{rest}"), stream).unwrap();
        let mut browser = Browser {
            child,
            _profile: profile,
            socket,
            session: None,
            commands: 0,
            events: VecDeque::new(),
            complaints: Vec::new(),
        };
        let blank = browser.command("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": blank["targetId"], "flatten": true });
        browser.session =
            Some(browser.command("Target.attachToTarget", &attach)["sessionId"].take());
        for domain in ["Log", "Runtime", "Page", "Performance"] {
            browser.command(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    fn next(&mut self) -> Value {
        loop {
            let message = self.socket.read().expect("a message of the browser");
            if let Message::Text(text) = message {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    fn keep(&mut self, event: Value) {
        let params = &event["params"];
        let complains = match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => true,
            "Log.entryAdded" => params["entry"]["level"] == "error",
            "Runtime.consoleAPICalled" => params["type"] == "error",
            _ => false,
        };
        if complains {
            self.complaints.push(event.clone());
        }
        self.events.push_back(event);
    }

    /// Sends a command and returns its result.
    fn command(&mut self, method: &str, params: &Value) -> Value {
        self.commands += 1;
        let id = self.commands;
        let mut command = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            command["sessionId"] = session.clone();
        }
        self.socket.send(Message::text(command.to_string())).unwrap();
        loop {
            let mut answer = self.next();
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.keep(answer);
        }
    }

    /// What an expression comes to; of a promise, what it resolves to.
    fn evaluate(&mut self, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut result = self.command("Runtime.evaluate", &params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Waits, in the page and by its own changes, until an expression is true; returns it.
    fn wait(&mut self, expression: &str) -> Value {
        let millis = PATIENCE.as_millis();
        self.evaluate(&format!(
            "new Promise((resolve, reject) => {{
                const look = () => {{
                    const value = {expression};
                    if (value) {{ observer.disconnect(); resolve(value); }}
                    return value;
                }};
                const observer = new MutationObserver(look);
                observer.observe(document, {{ subtree: true, childList: true, attributes: true,
                    characterData: true }});
                document.addEventListener('load', look, true);
                if (!look()) setTimeout(() => reject(new Error('in vain: ' + {text})), {millis});
            }})",
            text = json!(expression)
        ))
    }

    /// Opens a page of some size, and waits until it has been loaded.
    fn open(&mut self, url: &str, size: (u32, u32), scheme: &str) {
        let (width, height) = size;
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.command("Emulation.setDeviceMetricsOverride", &metrics);
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.command("Emulation.setEmulatedMedia", &json!({ "features": features }));
        self.events.clear();
        let opened = self.command("Page.navigate", &json!({ "url": url }));
        assert!(opened["errorText"].is_null(), "{opened}");
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.next();
            self.keep(event);
        }
    }

    fn mouse(&mut self, kind: &str, at: (f64, f64)) {
        let button = if kind == "mouseMoved" { "none" } else { "left" };
        let params = json!({
            "type": kind, "x": at.0, "y": at.1, "button": button, "clickCount": 1,
        });
        self.command("Input.dispatchMouseEvent", &params);
    }

    fn click(&mut self, at: (f64, f64)) {
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            self.mouse(kind, at);
        }
    }

    fn key(&mut self, key: &str, code: u32) {
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let params = json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text,
            });
            self.command("Input.dispatchKeyEvent", &params);
        }
    }

    /// The middle of a cell of the heat map, which is scrolled into view.
    fn cell(&mut self, row: u64, column: u64) -> (f64, f64) {
        let at = self.evaluate(&format!(
            "(() => {{
                $('heat').scrollIntoView({{ block: 'center', behavior: 'instant' }});
                const box = $('heat').getBoundingClientRect();
                const [rows, columns] = [count(state.view.rows), count(state.view.columns)];
                return [box.left + box.width * ({column} + 0.5) / columns,
                    box.top + box.height * ({row} + 0.5) / rows];
            }})()"
        ));
        (at[0].as_f64().unwrap(), at[1].as_f64().unwrap())
    }

    /// How often the page has been updated, and the seconds of processor time that its main thread
    /// has taken for scripts, layout, painting and all else: other processes of the machine do not
    /// lengthen it.
    fn pace(&mut self) -> (f64, f64) {
        let updates = self.evaluate("Number(document.body.dataset.updates || 0)");
        let metrics = self.command("Performance.getMetrics", &json!({}));
        let metrics = metrics["metrics"].as_array().unwrap();
        let time = metrics.iter().find(|metric| metric["name"] == "ThreadTime").unwrap();
        (updates.as_f64().unwrap(), time["value"].as_f64().unwrap())
    }

    /// Writes what is to be seen into the directory that `IXFLOW_SCREENSHOTS` names, if it does.
    fn screenshot(&mut self, name: &str) {
        let Some(directory) = std::env::var_os("IXFLOW_SCREENSHOTS") else { return };
        let picture = self.command("Page.captureScreenshot", &json!({ "format": "png" }));
        let picture = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            picture["data"].as_str().unwrap(),
        );
        std::fs::write(std::path::Path::new(&directory).join(name), picture.unwrap()).unwrap();
    }

    fn assert_content(&self) {
        assert!(self.complaints.is_empty(), "{:#?}", self.complaints);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // By its own id; the processes that it started end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(flush_secs: u32) -> (Site, Ixflow, String, Speaker) {
    let site = Site::with_counters();
    let flush = format!("sflow_flush_secs={flush_secs}");
    let (daemon, url) = start_at(&site, &[&flush]);
    let voice = Speaker::start(&site.fabric, daemon.address());
    (site, daemon, url, voice)
}

/// A daemon with a table and a page, and the page's address.
fn start_at(site: &Site, set: &[&str]) -> (Ixflow, String) {
    let set: Vec<_> = [&["sflow_http_listen=127.0.0.1:0"], set].concat();
    let daemon = site.start(&set);
    daemon.wait_table("new table: ");
    let url = format!("http://{}/", daemon.http());
    (daemon, url)
}

/// Waits until there are files to draw: without, the browser logs that a graph is not found.
fn wait_files(daemon: &Ixflow) {
    wait_for("files to draw", || {
        let status = get(daemon.http(), "/status.json").json();
        (status["write"]["created"].as_u64() > Some(0)).then_some(())
    });
}

/// The page has shown traffic.
const BUSY: &str = "typeof state === 'object' && state.view?.ready && state.view.cells.length > 3";

#[test]
fn a_hover_reads_a_pair_out_and_a_click_draws_its_graph() {
    if !has_chromium() {
        return;
    }
    let (_site, daemon, url, voice) = start(10);
    let mut browser = Browser::start();
    browser.open(&url, (1_440, 1_000), "light");
    browser.wait(BUSY);
    wait_files(&daemon);

    // The cell of a pair that spoke, and what the answer says of it.
    let expected = browser.evaluate(
        "(() => {
            const cell = state.view.cells[0];
            const [from, to] = [state.view.order[cell[0]], state.view.order[cell[1]]];
            return { row: cell[0], column: cell[1], from, to };
        })()",
    );
    let place = (expected["row"].as_u64().unwrap(), expected["column"].as_u64().unwrap());
    let at = browser.cell(place.0, place.1);
    browser.mouse("mouseMoved", at);
    let whom = format!("VLI {} → VLI {}: ", expected["from"], expected["to"]);
    let said = browser.wait(&format!(
        "$('readout').textContent.startsWith({}) && [$('readout').textContent,
            state.view.cells.find((cell) => cell[0] === {} && cell[1] === {})]",
        json!(whom),
        place.0,
        place.1
    ));
    let (text, cell) = (said[0].as_str().unwrap(), &said[1]);
    let rate = cell[2].as_f64().unwrap();
    let (value, unit) = text[whom.len()..].split_once(' ').unwrap();
    let factor = match unit.split("bit/s").next().unwrap() {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        other => panic!("{other:?} in {text}"),
    };
    let shown = value.parse::<f64>().unwrap() * factor;
    assert!((shown - rate).abs() <= rate * 0.006, "{text}: {rate}");
    for what in ["pkt/s", "mean frame ", "%"] {
        assert!(text.contains(what), "{text}");
    }
    browser.screenshot("1440-light.png");

    browser.click(at);
    let title = browser.wait("$('graphs').open && $('graphs-title').textContent");
    assert_eq!(title, format!("VLI {} and VLI {}", expected["from"], expected["to"]));
    let drawn =
        "[...document.querySelectorAll('#pictures img')].find((image) => image.naturalWidth > 300)";
    let alternative = browser.wait(&format!("{drawn}?.alt"));
    assert!(alternative.as_str().unwrap().ends_with("of the day"), "{alternative}");
    browser.screenshot("1440-light-graphs.png");
    browser.evaluate("document.querySelector('[name=period][value=year]').click()");
    browser.wait(&format!("{drawn}?.alt.endsWith('of the year')"));
    // Escape closes a dialog, and the keyboard is where it was.
    browser.key("Escape", 27);
    browser.wait("!$('graphs').open || 0");
    browser.assert_content();
    drop(voice);
    daemon.stop();
}

#[test]
fn the_keyboard_reaches_what_the_mouse_does() {
    if !has_chromium() {
        return;
    }
    let (_site, daemon, url, voice) = start(10);
    let mut browser = Browser::start();
    browser.open(&url, (1_000, 900), "dark");
    browser.wait(BUSY);
    wait_files(&daemon);
    let mut reached = Vec::new();
    for _ in 0..12 {
        browser.key("Tab", 9);
        let focused = "document.activeElement.id || document.activeElement.name || \
                       document.activeElement.className";
        let focused = browser.evaluate(focused).as_str().unwrap().to_owned();
        let on_map = focused == "heat";
        reached.push(focused);
        if on_map {
            break;
        }
    }
    // The link over the head first, the controls of the map before the map.
    assert_eq!(reached, ["skip", "lan", "protocol", "heat"]);
    let ring = browser.evaluate("getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(ring, "solid", "the focus is to be seen");
    browser.key("ArrowRight", 39);
    let first = browser.wait("$('readout').textContent.includes('→') && $('readout').textContent");
    browser.key("ArrowRight", 39);
    let first = first.as_str().unwrap().split(':').next().unwrap();
    let moved = browser.wait(&format!(
        "!$('readout').textContent.startsWith({}) && [state.at.row, state.at.column]",
        json!(first)
    ));
    assert_eq!(moved, json!([0, 1]));
    browser.key("Enter", 13);
    browser.wait("$('graphs').open");
    browser.key("Escape", 27);
    browser.wait("!$('graphs').open");
    assert_eq!(browser.evaluate("document.activeElement.id"), "heat");
    // A button of a row keeps the focus while the rows are replaced.
    browser.evaluate("document.querySelector('#members button').focus()");
    let updates = browser.evaluate("document.body.dataset.updates");
    let again = format!("document.body.dataset.updates > {} + 1", updates.as_str().unwrap());
    browser.wait(&again);
    assert_eq!(browser.evaluate("document.activeElement.className"), "link");
    browser.assert_content();
    drop(voice);
    daemon.stop();
}

#[test]
fn the_page_shows_the_figures_of_the_status() {
    if !has_chromium() {
        return;
    }
    let (site, daemon, url, mut voice) = start(300);
    let mut browser = Browser::start();
    browser.open(&url, (1_440, 1_000), "dark");
    browser.wait(BUSY);
    // In silence, what the page shows comes to what the daemon says.
    // One more was sent to wait for the table.
    let datagrams = voice.stop() + 1;
    let status = wait_for("all datagrams in the status", || {
        let status = get(daemon.http(), "/status.json").json();
        (status["received"]["datagrams"] == datagrams).then_some(status)
    });
    let received = &status["received"];
    browser.wait(&format!(
        "$('f-datagrams').textContent === number.format({}) &&
         $('f-samples').textContent === number.format({}) &&
         $('f-counted').textContent === number.format({})",
        received["datagrams"], received["flow_samples"], received["counted"]
    ));
    let agents = browser.evaluate(
        "[...document.querySelectorAll('#agents tr')].map((row) =>
            [...row.children].map((cell) => cell.textContent))",
    );
    let agents = agents.as_array().unwrap();
    assert_eq!(agents.len(), status["agents"].as_array().unwrap().len());
    for (row, agent) in agents.iter().zip(status["agents"].as_array().unwrap()) {
        assert_eq!(row[0], agent["address"]);
        let plain = |cell: &Value| cell.as_str().unwrap().replace(',', "");
        let received = &agent["received"];
        for (cell, field) in
            [(2, "flow_samples"), (3, "counted"), (4, "sequence_gaps"), (5, "agent_drops")]
        {
            assert_eq!(plain(&row[cell]), received[field].to_string(), "{field}: {row}");
        }
        let quality = row[7].as_str().unwrap();
        match agent["quality"]["ratio"].as_f64() {
            Some(ratio) => assert!(quality.starts_with(&format!("{ratio:.2} ±")), "{quality}"),
            None => assert_eq!(quality, "–"),
        }
    }
    assert!(status["agents"].as_array().unwrap().iter().any(|agent| !agent["quality"].is_null()));

    // The tables and cells against an answer that was fetched outside of the browser: the same
    // snapshot is shown until the next one is published.
    voice = Speaker::start(&site.fabric, daemon.address());
    let (shown, view) = wait_for("a snapshot that both have seen", || {
        let shown = browser.wait(
            "state.view?.ready && state.view.pairs.length > 3 && {
                to_millis: state.view.to_millis, traffic: $('f-traffic').textContent,
                bits: bits(state.view.total.bits_per_sec),
                pairs: [...document.querySelectorAll('#pairs tr')].map((row) =>
                    [...row.children].slice(0, 5).map((cell) => cell.textContent)),
            }",
        );
        let view = get(daemon.http(), "/live.json").json();
        (view["to_millis"] == shown["to_millis"]).then_some((shown, view))
    });
    assert!(shown["traffic"].as_str().unwrap().starts_with(shown["bits"].as_str().unwrap()));
    let rows = shown["pairs"].as_array().unwrap();
    assert_eq!(rows.len(), view["pairs"].as_array().unwrap().len().min(15));
    for (row, pair) in rows.iter().zip(view["pairs"].as_array().unwrap()) {
        assert_eq!(row[0], format!("{} → {}", pair["source"], pair["destination"]));
        let rate = pair["bits_per_sec"].as_f64().unwrap();
        let same = browser.evaluate(&format!("bits({rate})"));
        assert_eq!(row[1], same);
        let error = pair["error_percent"].as_f64().unwrap();
        let said = row[4].as_str().unwrap();
        match said.trim_start_matches('±').trim_end_matches(" %").parse::<f64>() {
            Ok(shown) => assert!((shown - error).abs() <= 0.5, "{said}: {error}"),
            Err(_) => assert!(said == "over 100 %" && error >= 100.0, "{said}: {error}"),
        }
    }
    browser.assert_content();
    drop(voice);
    daemon.stop();
}

#[test]
fn a_narrow_window_does_not_scroll_sideways() {
    if !has_chromium() {
        return;
    }
    let (_site, daemon, url, voice) = start(300);
    let mut browser = Browser::start();
    for (width, scheme) in [(420, "dark"), (360, "light")] {
        browser.open(&url, (width, 900), scheme);
        browser.wait(BUSY);
        assert_eq!(browser.evaluate("innerWidth"), width);
        // A bar for scrolling down takes some of the width.
        let widths = browser
            .evaluate("(({ scrollWidth, clientWidth }) => [scrollWidth, clientWidth])(document.documentElement)");
        assert!(widths[0].as_u64() <= widths[1].as_u64(), "{widths}");
        // Nor is anything of the two lists cut off.
        for list in ["talkers", "table"] {
            let widths =
                browser.evaluate(&format!("[$('{list}').scrollWidth, $('{list}').clientWidth]"));
            assert!(widths[0].as_u64() <= widths[1].as_u64(), "{list}: {widths}");
        }
        browser.screenshot(&format!("{width}-{scheme}.png"));
        browser.evaluate("scrollTo(0, 900)");
        browser.screenshot(&format!("{width}-{scheme}-below.png"));
        browser.evaluate("scrollTo(0, 1800)");
        browser.screenshot(&format!("{width}-{scheme}-end.png"));
    }
    browser.assert_content();
    drop(voice);
    daemon.stop();
}

#[test]
fn a_thousand_vlis_can_be_gone_into_and_do_not_hold_the_tab_up() {
    if !has_chromium() {
        return;
    }
    let site = Site::with_fabric("members = 1000\nipv6_share = 0.3");
    // Nobody writes: the files of so many pairs take gigabytes, and are not looked at here.
    let nobody = format!("sflow_rrdcached_socket=unix:{}", site.path("nobody.sock").display());
    let (daemon, url) = start_at(&site, &["sflow_rrdcached=1", &nobody]);
    let voice = Speaker::start_at(&site.fabric, daemon.address(), 20_000);
    let mut browser = Browser::start();
    browser.open(&url, (1_440, 1_000), "light");
    browser
        .wait("typeof state === 'object' && state.view?.ready && state.view.cells.length > 1000");
    browser.screenshot("1440-light-thousand.png");
    let [mut shown, mut group] = [1_000, 1_000];
    while group > 1 {
        let view = browser.evaluate(
            "(({ order, rows, cells }) => [order.length, rows.to - rows.from + 1, rows.group,
                cells.length, count(rows)])(state.view)",
        );
        let [vlis, ranks, in_a_cell, cells, rows] =
            [0, 1, 2, 3, 4].map(|index| view[index].as_u64().unwrap());
        assert_eq!(vlis, 1_000);
        assert!(ranks <= shown && in_a_cell < group, "{view}");
        // Those that the eye can tell apart, and the canvas draws at once.
        assert!(rows <= 96 && (1..=96 * 96).contains(&cells), "{view}");
        (shown, group) = (ranks, in_a_cell);
        let note = browser.evaluate("$('matrix-note').textContent");
        let says = format!("a cell is {group} × {group} VLIs");
        assert_eq!(note.as_str().unwrap().contains(&says), group > 1, "{note}");
        if group > 1 {
            let busiest = browser.evaluate("state.view.cells[0].slice(0, 2)");
            let [row, column] = [0, 1].map(|index| busiest[index].as_u64().unwrap());
            let at = browser.cell(row, column);
            browser.click(at);
            browser.wait(&format!("state.view.rows.to - state.view.rows.from + 1 < {shown}"));
            browser.wait("!$('out').hidden");
        }
    }
    browser.screenshot("1440-light-thousand-within.png");
    browser.evaluate("while (!$('out').hidden && state.zoom.length) $('out').click()");
    browser.wait("state.view.rows.to === 999 && $('out').hidden");

    // The whole of it, while it updates by itself: what an update takes of the main thread.
    let before = browser.pace();
    browser.wait(&format!("document.body.dataset.updates >= {} + 5", before.0));
    let after = browser.pace();
    let secs = (after.1 - before.1) / (after.0 - before.0);
    eprintln!("an update of a thousand VLIs takes {secs:.3} s of the main thread");
    assert!(secs < 0.5, "an update, every two seconds, takes {secs} s");
    browser.assert_content();
    drop(voice);
    daemon.kill();
}

#[test]
fn the_page_asks_for_the_token_and_keeps_it() {
    if !has_chromium() {
        return;
    }
    let site = Site::with_counters();
    let (daemon, url) = start_at(&site, &["sflow_http_token=not-to-be-told"]);
    let voice = Speaker::start(&site.fabric, daemon.address());
    let mut browser = Browser::start();
    browser.open(&url, (1_000, 900), "light");
    browser.wait("!$('token-form').hidden");
    browser.screenshot("1000-light-token.png");
    assert_eq!(browser.evaluate("$('main').hidden"), true);
    assert_eq!(browser.evaluate("document.activeElement.id"), "token");
    for (token, accepted) in [("not-to-be-tol", false), ("not-to-be-told", true)] {
        browser.evaluate("$('token').select()");
        browser.command("Input.insertText", &json!({ "text": token }));
        browser.key("Enter", 13);
        if accepted {
            browser.wait(BUSY);
        } else {
            // Asked anew with it, and refused.
            browser.wait("token === 'not-to-be-tol' && !running");
            browser.wait("$('health-text').textContent.includes('missing or wrong')");
        }
        for (part, hidden) in [("token-form", accepted), ("main", !accepted)] {
            assert_eq!(browser.evaluate(&format!("$('{part}').hidden")), hidden, "{token}");
        }
    }
    let refused = |event: &Value| {
        event["params"]["entry"]["text"].as_str().is_some_and(|text| text.contains(" 401 "))
    };
    assert!(!browser.complaints.is_empty());
    browser.complaints.retain(|event| !refused(event));
    browser.open(&url, (1_000, 900), "light");
    browser.wait(BUSY);
    assert_eq!(browser.evaluate("$('token-form').hidden"), true);
    assert!(!browser.evaluate("location.href").as_str().unwrap().contains("told"));
    browser.assert_content();
    drop(voice);
    daemon.stop();
}

#[test]
fn another_vlan_is_chosen() {
    if !has_chromium() {
        return;
    }
    let site = Site::with_fabric(ixflow::simulate::DEFAULT_FABRIC);
    let (daemon, url) = start_at(&site, &[]);
    let voice = Speaker::start(&site.fabric, daemon.address());
    let mut browser = Browser::start();
    browser.open(&url, (1_000, 900), "light");
    browser.wait(BUSY);
    let lans = browser.evaluate("state.view.lans");
    assert_eq!(browser.evaluate("$('lan').options.length"), lans.as_array().unwrap().len());
    assert_eq!(browser.evaluate("state.view.lan.vlan"), lans[0]["vlan"]);
    assert_ne!(lans[0]["vlan"], lans[1]["vlan"]);
    browser.evaluate("$('lan').focus()");
    browser.key("ArrowDown", 40);
    let vlan = &lans[1]["vlan"];
    let shown = browser.wait(&format!(
        "state.view.lan.vlan === {vlan} && {{ order: state.view.order, note:
            $('matrix-note').textContent, pairs: state.view.pairs.length }}"
    ));
    let query = format!("/live.json?infrastructure={}&vlan={vlan}", lans[1]["infrastructure"]);
    let view = get(daemon.http(), &query).json();
    let members = |order: &Value| {
        let ids = order.as_array().unwrap().iter().map(|id| id.as_u64().unwrap());
        ids.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(members(&shown["order"]), members(&view["order"]));
    let note = format!("{} VLIs, busiest first", lans[1]["vlis"]);
    assert!(shown["note"].as_str().unwrap().starts_with(&note), "{shown}");
    // It stays chosen over the updates, with one protocol too.
    browser.evaluate("document.querySelector('[name=protocol][value=ipv6]').click()");
    let updates = browser.evaluate("Number(document.body.dataset.updates)");
    browser.wait(&format!("document.body.dataset.updates > {updates} + 1"));
    browser.wait("state.view.protocol === 'ipv6'");
    assert_eq!(&browser.evaluate("state.view.lan.vlan"), vlan);
    browser.assert_content();
    drop(voice);
    daemon.stop();
}
