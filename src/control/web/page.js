"use strict";
const $ = (id) => document.getElementById(id);
const state = { lan: "", protocol: "both", zoom: [], view: null, cells: new Map(), at: null, max: 0, wait: null };
let token = sessionStorage.getItem("token") || "";

// Numbers for people.
const number = new Intl.NumberFormat("en");
function scaled(value, unit) {
  const steps = ["", "k", "M", "G", "T", "P"];
  let step = 0;
  while (value >= 999.5 && step < steps.length - 1) { value /= 1000; step += 1; }
  const digits = value === 0 ? 0 : value < 10 ? 2 : value < 100 ? 1 : 0;
  return `${value.toFixed(digits)} ${steps[step]}${unit}`;
}
const bits = (value) => scaled(value, "bit/s");
const packets = (value) => scaled(value, "pkt/s");
const errorOf = (samples) => samples > 0 ? 196 / Math.sqrt(samples) : null;
function band(samples) {
  const error = errorOf(samples);
  return error === null ? "–" : error >= 100 ? "over 100 %" : `±${error.toFixed(error < 10 ? 1 : 0)} %`;
}
function frame(bitsPerSec, packetsPerSec) {
  return packetsPerSec > 0 ? `${Math.round(bitsPerSec / 8 / packetsPerSec)} B` : "–";
}
function ago(millis, now) {
  const secs = Math.max(0, Math.round((now - millis) / 1000));
  if (secs < 90) return `${secs} s`;
  if (secs < 5400) return `${Math.round(secs / 60)} min`;
  return secs < 129600 ? `${Math.round(secs / 3600)} h` : `${Math.round(secs / 86400)} d`;
}

// Perceptually even steps: viridis's hues, from the paper's end to the ink's.
const LIGHT = [[244, 244, 241], [205, 226, 222], [138, 196, 195], [77, 155, 173], [52, 111, 148], [51, 66, 113], [49, 25, 73]];
const DARK = [[32, 35, 39], [38, 55, 84], [42, 87, 120], [42, 123, 141], [64, 163, 135], [143, 200, 96], [240, 228, 90]];
const dark = matchMedia("(prefers-color-scheme: dark)");
function color(part) {
  const stops = dark.matches ? DARK : LIGHT;
  const place = Math.min(1, Math.max(0, part)) * (stops.length - 1);
  const low = Math.min(stops.length - 2, Math.floor(place));
  const mix = stops[low].map((value, index) => Math.round(value + (stops[low + 1][index] - value) * (place - low)));
  return `rgb(${mix.join(" ")})`;
}
// Four decades of rates.
const weight = (value) => value <= 0 || state.max <= 0 ? 0 : Math.max(0.08, 1 + Math.log10(value / state.max) / 4);

async function ask(path) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { headers, cache: "no-store" });
  needToken(answer.status === 401);
  if (answer.status === 401) throw new Error("the token is missing or wrong");
  if (!answer.ok) throw new Error(`${path}: HTTP ${answer.status}`);
  return answer;
}
// Nothing is to be seen without it, so that it is all that is shown.
function needToken(need) {
  const form = $("token-form");
  if (form.hidden !== need) return;
  form.hidden = !need;
  $("main").hidden = need;
  if (need) $("token").focus();
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}
function row(cells) {
  const made = element("tr");
  for (const cell of cells) {
    if (cell instanceof Node) { const td = element("td"); td.append(cell); made.append(td); }
    else if (Array.isArray(cell)) made.append(element("td", cell[0], cell[1]));
    else made.append(element("td", cell));
  }
  return made;
}
function meter(part) {
  const made = element("div", undefined, "meter");
  const fill = element("i");
  fill.style.width = `${(100 * Math.min(1, part)).toFixed(1)}%`;
  made.append(fill);
  return made;
}
function link(text, action) {
  const made = element("button", text, "link");
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}
// Keeps the keyboard's place while rows are replaced.
function fill(id, rows, none) {
  const body = $(id);
  const focused = body.contains(document.activeElement) ? document.activeElement.textContent : null;
  body.replaceChildren(...(rows.length ? rows : [row([[none, "muted"]])]));
  if (focused) [...body.querySelectorAll("button")].find((button) => button.textContent === focused)?.focus();
}

function showStatus(status) {
  const received = status.received;
  $("f-datagrams").textContent = number.format(received.datagrams);
  $("f-samples").textContent = number.format(received.flow_samples);
  $("f-counted").textContent = number.format(received.counted);
  $("f-rate").textContent = status.flow_samples_per_sec === null ? "–" : number.format(Math.round(status.flow_samples_per_sec));
  const table = status.table;
  $("f-table").textContent = table.macs ? `${number.format(table.vlis)} VLIs, ${ago(table.fetched_secs * 1000, status.now_millis)} old` : "none yet";
  const worst = status.findings.some((finding) => finding.level === "fail") ? "fail" : status.findings.some((finding) => finding.level === "warn") ? "warn" : "ok";
  $("health").className = status.ready ? worst : "fail";
  $("health-text").textContent = !status.ready ? "not ready: no MAC table yet" : worst === "ok" ? "all is well" : `${status.findings.filter((finding) => finding.level !== "ok").length} findings`;
  $("findings").replaceChildren(...(status.findings.length ? status.findings.map((finding) => {
    const item = element("li");
    item.append(element("span", finding.level, `level ${finding.level}`), " ", element("b", finding.subject || finding.name), ` ${finding.what}`);
    if (finding.remedy) item.append(element("div", finding.remedy, "muted"));
    return item;
  }) : [element("li", "Nothing looks wrong.", "muted")]));
  fill("agents", status.agents.map((agent) => {
    const losses = Object.entries(agent.received.losses).sort((a, b) => b[1] - a[1]).map(([name, count]) => `${name} ${number.format(count)}`).join(", ");
    const rates = agent.sampling_rates;
    return row([
      agent.sub_agent_id ? `${agent.address} / ${agent.sub_agent_id}` : agent.address,
      [agent.flow_samples_per_sec === null ? "–" : number.format(Math.round(agent.flow_samples_per_sec)), "n"],
      [number.format(agent.received.flow_samples), "n"], [number.format(agent.received.counted), "n"],
      [number.format(agent.received.sequence_gaps), "n"], [number.format(agent.received.agent_drops), "n"],
      [rates[0] === rates[1] ? number.format(rates[0]) : `${number.format(rates[0])}–${number.format(rates[1])}`, "n"],
      [agent.quality ? `${agent.quality.ratio.toFixed(2)} ±${agent.quality.error_percent.toFixed(1)} %` : "–", "n"],
      [ago(agent.last_seen_millis, status.now_millis), "n"], [losses || "nothing", "muted"],
    ]);
  }), "No agent was heard yet.");
  fill("macs", status.unknown_macs.map((mac) => row([
    mac.mac, mac.vlan ? String(mac.vlan) : "none", mac.end,
    mac.port.if_index === null ? mac.port.agent : `${mac.port.agent} ifIndex ${mac.port.if_index}`,
    [number.format(mac.samples), "n"], [mac.addresses.join(", ") || "–", "muted"],
  ])), "None.");
  $("macs-note").textContent = status.unknown_macs_others ? `${number.format(status.unknown_macs_others)} samples of further addresses` : "";
  $("footer").textContent = `ixflow ${status.version}, up ${ago(0, status.uptime_secs * 1000)}, ${status.workers} worker${status.workers === 1 ? "" : "s"}; ${number.format(status.write.updates)} updates written, ${status.write.backlog} intervals waiting`;
}

function showLans(view) {
  const select = $("lan");
  const key = (lan) => `${lan.infrastructure}/${lan.vlan}`;
  const keys = view.lans.map(key).join();
  if (select.dataset.keys !== keys) {
    select.dataset.keys = keys;
    const several = new Set(view.lans.map((lan) => lan.infrastructure)).size > 1;
    select.replaceChildren(...view.lans.map((lan) => {
      const name = `${lan.vlan || "untagged"}${several ? ` (infrastructure ${lan.infrastructure})` : ""}, ${lan.vlis} VLIs`;
      const option = element("option", name);
      option.value = key(lan);
      return option;
    }));
  }
  if (view.lan) select.value = key(view.lan);
}

function showView(view) {
  state.view = view;
  showLans(view);
  $("f-traffic").textContent = view.ready ? `${bits(view.total.bits_per_sec)} ${band(view.total.samples)}` : "–";
  state.cells = new Map(view.cells.map((cell) => [cell[0] * 65536 + cell[1], cell]));
  state.max = view.cells.reduce((max, cell) => Math.max(max, cell[2]), 0);
  const group = view.rows.group > 1 || view.columns.group > 1;
  const shown = `ranks ${view.rows.from + 1}–${view.rows.to + 1} send to ${view.columns.from + 1}–${view.columns.to + 1}`;
  $("matrix-note").textContent = !view.ready ? "Counting the first seconds." : view.order.length === 0 ? "This VLAN has no VLIs." :
    `${number.format(view.order.length)} VLIs, busiest first; ${shown}${group ? `; a cell is ${view.rows.group} × ${view.columns.group} VLIs, click to go in` : ""}.`;
  $("out").hidden = state.zoom.length === 0;
  $("scale-max").textContent = state.max ? bits(state.max) : "more";
  draw();
  const most = view.members.reduce((max, member) => Math.max(max, member.out.bits_per_sec + member.in.bits_per_sec), 0);
  fill("members", view.members.slice(0, 10).map((member) => row([
    link(`VLI ${member.vli}`, () => openGraphs({ source: member.vli })),
    [bits(member.out.bits_per_sec), "n"], [bits(member.in.bits_per_sec), "n"],
    [band(member.out.samples + member.in.samples), "n muted"],
    meter((member.out.bits_per_sec + member.in.bits_per_sec) / most),
  ])), "Nobody speaks.");
  const top = view.pairs.length ? view.pairs[0].bits_per_sec : 0;
  fill("pairs", view.pairs.slice(0, 15).map((pair) => row([
    link(`${pair.source} → ${pair.destination}`, () => openGraphs({ source: pair.source, destination: pair.destination })),
    [bits(pair.bits_per_sec), "n"], [packets(pair.packets_per_sec), "n"],
    [frame(pair.bits_per_sec, pair.packets_per_sec), "n"], [band(pair.samples), "n muted"],
    meter(pair.bits_per_sec / top),
  ])), "Nobody speaks.");
  if (state.at) readOut();
}

const count = (span) => Math.ceil((span.to - span.from + 1) / span.group);
function draw() {
  const canvas = $("heat");
  const view = state.view;
  const ratio = devicePixelRatio || 1;
  const side = Math.round(canvas.clientWidth * ratio);
  if (canvas.width !== side || canvas.height !== side) { canvas.width = side; canvas.height = side; }
  const paint = canvas.getContext("2d");
  paint.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--empty");
  paint.fillRect(0, 0, side, side);
  if (!view || !view.order.length) return;
  const [rows, columns] = [count(view.rows), count(view.columns)];
  const gap = side / Math.max(rows, columns) > 8 * ratio ? ratio : 0;
  const edge = (index, total) => Math.round(index * side / total);
  const box = (r, c) => [edge(c, columns), edge(r, rows), edge(c + 1, columns) - edge(c, columns) - gap, edge(r + 1, rows) - edge(r, rows) - gap];
  for (const cell of view.cells) {
    paint.fillStyle = color(weight(cell[2]));
    paint.fillRect(...box(cell[0], cell[1]));
  }
  if (state.at) {
    const [x, y, width, height] = box(state.at.row, state.at.column);
    // One line of the ink and one of the paper: on any color one of the two is seen.
    const style = getComputedStyle(document.documentElement);
    for (const [name, inset] of [["--ink", 1], ["--card", 3]]) {
      const by = Math.min(inset * ratio, width / 2, height / 2);
      paint.strokeStyle = style.getPropertyValue(name);
      paint.lineWidth = 2 * ratio;
      paint.strokeRect(x + by, y + by, width - 2 * by, height - 2 * by);
    }
  }
  const scale = $("scale").getContext("2d");
  for (let x = 0; x < 160; x += 1) { scale.fillStyle = color(x / 159); scale.fillRect(x, 0, 1, 8); }
}

function ranks(span, index) {
  const from = span.from + index * span.group;
  return [from, Math.min(span.to, from + span.group - 1)];
}
function names(span, index) {
  const [from, to] = ranks(span, index);
  return from === to ? `VLI ${state.view.order[from]}` : `ranks ${from + 1}–${to + 1}`;
}
function readOut() {
  const { view, at } = state;
  if (!view || !view.order.length || !at) return;
  at.row = Math.min(at.row, count(view.rows) - 1);
  at.column = Math.min(at.column, count(view.columns) - 1);
  const cell = state.cells.get(at.row * 65536 + at.column);
  const whom = `${names(view.rows, at.row)} → ${names(view.columns, at.column)}`;
  $("readout").textContent = cell
    ? `${whom}: ${bits(cell[2])}, ${packets(cell[3])}, mean frame ${frame(cell[2], cell[3])}, ${band(cell[4])}`
    : `${whom}: nothing in the last seconds`;
}
function pointAt(event) {
  const view = state.view;
  if (!view || !view.order.length) return;
  const box = $("heat").getBoundingClientRect();
  const place = (offset, size, total) => Math.min(total - 1, Math.max(0, Math.floor(offset / size * total)));
  state.at = {
    row: place(event.clientY - box.top, box.height, count(view.rows)),
    column: place(event.clientX - box.left, box.width, count(view.columns)),
  };
  readOut();
  draw();
}
function enter() {
  const { view, at } = state;
  if (!view || !at) return;
  const [rowFrom, rowTo] = ranks(view.rows, at.row);
  const [columnFrom, columnTo] = ranks(view.columns, at.column);
  if (rowFrom === rowTo && columnFrom === columnTo) {
    if (view.order[rowFrom] !== view.order[columnFrom]) openGraphs({ source: view.order[rowFrom], destination: view.order[columnFrom] });
    return;
  }
  // A group and what is around it: a quarter of what is shown, but no less than 24 ranks.
  const around = (from, to, span) => {
    const want = Math.max(24, Math.ceil((span.to - span.from + 1) / 4));
    const low = Math.max(span.from, Math.round((from + to - want) / 2));
    return [low, Math.min(span.to, low + want - 1)];
  };
  state.zoom.push([around(rowFrom, rowTo, view.rows), around(columnFrom, columnTo, view.columns)]);
  state.at = null;
  refresh();
}

let shownGraphs = null;
function openGraphs(whom) {
  shownGraphs = whom;
  $("graphs-title").textContent = whom.destination === undefined ? `VLI ${whom.source}` : `VLI ${whom.source} and VLI ${whom.destination}`;
  if (!$("graphs").open) $("graphs").showModal();
  showGraphs();
}
async function showGraphs() {
  const whom = shownGraphs;
  const period = document.querySelector("[name=period]:checked").value;
  const protocols = state.protocol === "both" ? ["ipv4", "ipv6"] : [state.protocol];
  const pictures = [];
  for (const protocol of protocols) for (const unit of ["bytes", "pkts"]) pictures.push([protocol, unit]);
  const made = await Promise.all(pictures.map(async ([protocol, unit]) => {
    try {
      const query = new URLSearchParams({ ...whom, protocol, unit, period });
      const answer = await ask(`graph.png?${query}`);
      const image = element("img");
      image.alt = `${protocol} ${unit} of the ${period}`;
      image.src = URL.createObjectURL(await answer.blob());
      image.onload = () => URL.revokeObjectURL(image.src);
      return image;
    } catch {
      return element("p", `No graph of ${protocol} ${unit} yet: the file is made at the first flush.`);
    }
  }));
  const wanted = document.querySelector("[name=period]:checked").value;
  if (whom === shownGraphs && period === wanted) $("pictures").replaceChildren(...made);
}

let running = false;
async function refresh() {
  if (running) { state.again = true; return; }
  running = true;
  clearTimeout(state.wait);
  try {
    const query = new URLSearchParams({ protocol: state.protocol });
    if (state.lan) { const [infrastructure, vlan] = state.lan.split("/"); query.set("infrastructure", infrastructure); query.set("vlan", vlan); }
    const zoom = state.zoom.at(-1);
    if (zoom) {
      query.set("row_from", zoom[0][0]); query.set("row_to", zoom[0][1]);
      query.set("column_from", zoom[1][0]); query.set("column_to", zoom[1][1]);
    }
    const [status, view] = await Promise.all([ask("status.json"), ask(`live.json?${query}`)]);
    showStatus(await status.json());
    showView(await view.json());
    document.body.dataset.updates = Number(document.body.dataset.updates || 0) + 1;
  } catch (error) {
    $("health").className = "fail";
    $("health-text").textContent = `no answer: ${error.message}`;
  } finally {
    running = false;
    if (state.again) { state.again = false; refresh(); }
    else state.wait = setTimeout(refresh, document.hidden ? 10000 : 2000);
  }
}

$("heat").addEventListener("pointermove", pointAt);
$("heat").addEventListener("click", (event) => { pointAt(event); enter(); });
$("heat").addEventListener("keydown", (event) => {
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const move = moves[event.key];
  if (move) {
    event.preventDefault();
    const at = state.at || { row: 0, column: 0 };
    state.at = state.at ? { row: Math.max(0, at.row + move[0]), column: Math.max(0, at.column + move[1]) } : at;
    readOut();
    draw();
  } else if (event.key === "Enter") enter();
  else if (event.key === "Escape" && state.zoom.length) { state.zoom.pop(); refresh(); }
});
$("out").addEventListener("click", () => { state.zoom.pop(); state.at = null; refresh(); });
$("lan").addEventListener("change", () => { state.lan = $("lan").value; state.zoom = []; state.at = null; refresh(); });
$("protocol").addEventListener("change", (event) => { state.protocol = event.target.value; refresh(); });
$("period").addEventListener("change", showGraphs);
$("close").addEventListener("click", () => $("graphs").close());
$("graphs").addEventListener("close", () => { shownGraphs = null; $("pictures").replaceChildren(); });
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  sessionStorage.setItem("token", token);
  refresh();
});
dark.addEventListener("change", draw);
addEventListener("resize", draw);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
refresh();
