"use strict";
const $ = (id) => document.getElementById(id);
const STATES = ["no memory", "free", "cached", "being filled", "index", "changing"];
const COLOURS = ["unbacked", "free", "cached", "filling", "index", "changing"];
const AGES = ["no queue", "new", "young", "kept"];
const KEEP = 900;
let pool = new URLSearchParams(location.search).get("pool");
let source = null, dots = new Uint8Array(0), last = null, history = [], cursor = 0, drawing = false;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const number = (n, digits = 0) => n.toLocaleString("en", { maximumFractionDigits: digits });
const percent = (share) => (share === null || !isFinite(share) ? "–" : number(100 * share, 1) + " %");
function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < 4) { n /= 1024; unit += 1; }
  return (unit && n < 100 ? n.toFixed(1) : n.toFixed(0)) + " " + units[unit];
}
function time(seconds) {
  if (seconds >= 1) return number(seconds, 1) + " s";
  return seconds >= 1e-3 ? number(seconds * 1e3, 1) + " ms" : number(seconds * 1e6) + " µs";
}
function ago(seconds) {
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) if (seconds >= 2 * length) return number(seconds / length) + " " + unit;
  return number(Math.max(0, seconds)) + " s";
}

function listen() {
  if (source) source.close();
  source = new EventSource("events" + (pool ? "?pool=" + encodeURIComponent(pool) : ""));
  source.onopen = () => { $("state").textContent = "live"; };
  source.onerror = () => { $("state").textContent = "not connected; trying again"; };
  source.addEventListener("history", (event) => { history = JSON.parse(event.data).slice(-KEEP); });
  source.onmessage = (event) => show(JSON.parse(event.data));
}

function show(found) {
  pools(found.pools, found.pool);
  $("trouble").hidden = !found.error;
  $("trouble").textContent = found.error || "";
  document.body.dataset.ready = "1";
  if (!found.statistics) return;
  last = found;
  history.push(found.sample);
  if (history.length > KEEP) history.shift();
  figures(found);
  charts();
  latency(found.statistics);
  larger(found.statistics.working_set);
  tiers(found.statistics);
  filling(found);
  objects(found);
  clients(found);
  if (!document.hidden) picture();
}

function pools(names, selected) {
  if (pool === null && selected !== null) pool = selected;
  const now = [...$("pools").children].map((each) => each.textContent).join("\n");
  if (now !== names.join("\n")) {
    $("pools").replaceChildren(...names.map((name) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.setAttribute("role", "tab");
      button.onclick = () => choose(name);
      button.onkeydown = (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        const other = step && $("pools").children[names.indexOf(name) + step];
        if (other) { other.focus(); choose(other.textContent); }
      };
      return button;
    }));
  }
  for (const button of $("pools").children) {
    button.setAttribute("aria-selected", button.textContent === selected);
    button.tabIndex = button.textContent === selected ? 0 : -1;
  }
}

function choose(name) {
  if (name === pool) return;
  pool = name;
  history = [];
  window.history.replaceState(null, "", "?pool=" + encodeURIComponent(name));
  $("findings").textContent = "Not checked.";
  $("names").tBodies[0].replaceChildren();
  listen();
}

function figures({ statistics: s, rates: r }) {
  const ratios = s.hit_ratios;
  const told = [
    [percent(r.hit_ratio), "hits now"],
    [percent(ratios.minute) , "hits, 1 minute"],
    [percent(ratios.fifteen_minutes), "hits, 15 minutes"],
    [number(r.lookups), "lookups/s"],
    [bytes(r.source_bytes) + "/s", "read from sources"],
    [bytes(s.cached_bytes), "cached, of " + bytes(s.pool_bytes)],
    [bytes(s.backed_bytes), "memory taken"],
    [number(s.objects), "objects"],
    [number(s.clients), "processes" + (s.dead_clients ? ", " + s.dead_clients + " dead" : "")],
  ];
  fill($("figures"), told, ([value, name]) => {
    const div = document.createElement("div"), b = document.createElement("b"), span = document.createElement("span");
    b.textContent = value; span.textContent = name; div.append(b, span);
    return div;
  });
}

function fill(where, rows, make) { where.replaceChildren(...rows.map(make)); }

function row(cells) {
  const tr = document.createElement("tr");
  for (const cell of cells) {
    const td = document.createElement("td");
    if (cell instanceof Node) td.append(cell); else { td.textContent = cell; td.title = cell; }
    tr.append(td);
  }
  return tr;
}

function table(id, rows, nothing) {
  const body = $(id).tBodies[0];
  if (rows.length) return body.replaceChildren(...rows.map(row));
  const tr = row([nothing]);
  tr.firstChild.colSpan = visible($(id).tHead.rows[0]); tr.firstChild.className = "none";
  body.replaceChildren(tr);
}

const visible = (tr) => [...tr.cells].filter((cell) => cell.offsetWidth).length || 1;

function part(value, whole) {
  const bar = document.createElement("progress");
  bar.max = 1; bar.value = whole ? value / whole : 0;
  bar.title = percent(whole ? value / whole : null);
  return bar;
}

function tiers({ tiers, sources }) {
  const used = tiers.filter((each) => Object.values(each).some((value) => typeof value === "number" && value));
  $("tiers-section").hidden = !used.length;
  table("tiers", used.map((each) => {
    const source = sources.find((one) => one.source === each.tier), asked = each.hits + each.misses;
    return [each.tier, percent(asked ? each.hits / asked : null), number(asked), bytes(source.bytes), bytes(each.store_bytes),
      number(each.dropped), number(each.declined), number(each.skipped)];
  }), "none");
}

function filling({ objects, clients }) {
  const pids = new Map(clients.map((each) => [each.slot, each.pid]));
  const rows = objects.filter((each) => each.filling_bytes).slice(0, 8)
    .map((each) => [each.key, part(each.cached_bytes, each.size), bytes(each.filling_bytes), "pid " + (pids.get(each.filler) ?? "–")]);
  table("filling", rows, "nothing at this moment");
}

function objects({ objects, object_count: count }) {
  $("object-count").textContent = count > 20 ? "the largest 20 of " + number(count) : "";
  const rows = objects.filter((each) => !each.filling_bytes || each.cached_bytes).sort((a, b) => b.cached_bytes - a.cached_bytes).slice(0, 20);
  if (openers.size > 1000) openers.clear();
  const focused = document.activeElement && document.activeElement.dataset.object;
  table("objects", rows.map((each) => [opener(each), bytes(each.cached_bytes), bytes(each.size), part(each.cached_bytes, each.size),
    percent(each.cached_bytes ? each.used_bytes / each.cached_bytes : null), number(each.pins)]), "none");
  const buttons = [...$("objects").querySelectorAll("button")];
  const at = buttons.find((each) => each.dataset.object === opened);
  if (at) strip(at.closest("tr"));
  const again = focused && buttons.find((each) => each.dataset.object === focused);
  if (again) again.focus({ preventScroll: true });
}

// The parts of one object, below its row.

let opened = null, parts = [], asking = false;
const openers = new Map();  // the same button in each row of an object, so that a click does not meet one that is gone
const label = (each) => JSON.stringify([each.key, each.version]);

function opener(each) {
  const button = openers.get(label(each)) || document.createElement("button");
  openers.set(label(each), button);
  button.type = "button"; button.className = "object"; button.textContent = each.key; button.title = each.key + " (show which parts are cached)";
  button.dataset.object = label(each);
  button.setAttribute("aria-expanded", opened === label(each));
  button.onclick = () => {
    opened = opened === label(each) ? null : label(each); parts = [];
    if (last) objects(last);
  };
  return button;
}

function strip(tr) {
  const below = document.createElement("tr"), td = document.createElement("td"), canvas = document.createElement("canvas");
  td.colSpan = visible(tr); td.append(canvas); below.append(td); tr.after(below);
  canvas.className = "parts"; canvas.setAttribute("role", "img");
  draw(canvas);
  if (asking) return;
  const [key, version] = JSON.parse(opened), now = opened;
  asking = true;
  fetch("parts?" + new URLSearchParams({ pool, key, version })).then((answer) => (answer.ok ? answer.json() : null)).then((found) => {
    if (opened === now) { parts = found; const shown = document.querySelector("canvas.parts"); if (shown) draw(shown); }
  }).catch(() => {}).finally(() => { asking = false; });
}

function draw(canvas) {
  const scale = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = Math.round(width * scale); canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  if (!parts) {
    pen.font = "12px system-ui, sans-serif"; pen.fillStyle = colour("dim");
    pen.fillText("not known: its key is too long, or its folios have a size of their own", 0, height - 3);
    return canvas.setAttribute("aria-label", "not known");
  }
  const wide = width / Math.max(1, parts.length), gap = wide > 4 ? 1 : 0;
  parts.forEach((there, n) => {
    pen.fillStyle = colour(["unbacked", "cached", "used"][there]);
    pen.fillRect(n * wide, 0, wide - gap, height);
  });
  const share = parts.filter((there) => there === 2).length / Math.max(1, parts.length);
  canvas.setAttribute("aria-label", "from its first byte to its last: " + percent(share) + " of its parts are all cached");
  canvas.title = "from its first byte to its last; dark: all of the part is cached, light: some of it";
}

function clients({ clients, now }) {
  const rows = [...clients].sort((a, b) => b.pins - a.pins).slice(0, 50);
  table("clients", rows.map((each) => [String(each.pid), each.state, number(each.pins), ago(now - each.attached)]), "none");
}

function larger(w) {
  const rows = [["25 %", w.with_25], ["50 %", w.with_50], ["100 %", w.with_100], ["200 %", w.with_200]];
  $("larger").replaceChildren(...rows.flatMap(([more, gain]) => {
    const one = document.createElement("span"), other = document.createElement("span");
    one.textContent = more + " larger"; other.textContent = percent(w.filled ? gain / w.filled : null);
    return [one, part(gain, w.filled), other];
  }), Object.assign(document.createElement("span"), { className: "none", style: "grid-column: 1 / -1", textContent: "of what was fetched would have been hits" }));
}

// Charts.

function prepared(id) {
  const canvas = $(id), scale = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale); canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "11px system-ui, sans-serif";
  return [canvas, pen, width, height];
}

function line(id, key, format, most) {
  const [canvas, pen, width, height] = prepared(id);
  const values = history.map((sample) => sample[key]);
  const known = values.filter((value) => value !== null);
  const top = most || nice(Math.max(...known, 1e-9));
  const bottom = height - 16, left = 0;
  pen.strokeStyle = colour("line"); pen.fillStyle = colour("dim");
  for (const share of [0, 0.5, 1]) {
    const y = bottom - share * (bottom - 14);
    pen.beginPath(); pen.moveTo(left, y); pen.lineTo(width, y); pen.stroke();
    if (share) pen.fillText(format(share * top), left, y - 3);
  }
  const span = Math.max(60, values.length), x = (n) => width - ((values.length - 1 - n) / (span - 1)) * width;
  const y = (value) => bottom - Math.min(1, value / top) * (bottom - 14);
  pen.strokeStyle = colour("accent"); pen.lineWidth = 1.5; pen.lineJoin = "round";
  pen.beginPath();
  let drawn = false;
  values.forEach((value, n) => {
    if (value === null) { drawn = false; return; }
    if (drawn) pen.lineTo(x(n), y(value)); else pen.moveTo(x(n), y(value));
    drawn = true;
  });
  pen.stroke(); pen.lineWidth = 1;
  pen.fillText(ago(span - 1) + " ago", 0, height - 3);
  const now = known.length ? format(known[known.length - 1]) : "–";
  pen.textAlign = "right"; pen.fillStyle = colour("text"); pen.fillText("now " + now, width, height - 3); pen.textAlign = "left";
  canvas.setAttribute("aria-label", canvas.parentElement.querySelector("h2").textContent + ": now " + now);
}

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= value);
}
function niceBytes(value) { let n = 1024; while (n < value) n *= 2; return n; }

function charts() {
  line("chart-hits", "hit_ratio", percent, 1);
  line("chart-lookups", "lookups", (n) => number(n, n < 10 ? 1 : 0));
  line("chart-read", "read", (n) => bytes(n) + "/s", niceBytes(Math.max(...history.map((s) => s.read), 1)));
  line("chart-memory", "backed", bytes, last && last.statistics.pool_bytes);
}

function latency({ sources }) {
  const [canvas, pen, width, height] = prepared("latency");
  const used = sources.filter((each) => each.requests);
  if (!used.length) {
    pen.fillStyle = colour("dim"); pen.fillText("no requests", 0, 20);
    return canvas.setAttribute("aria-label", "no requests");
  }
  const sum = used[0].latency.counts.map((_, n) => used.reduce((all, each) => all + each.latency.counts[n], 0));
  let first = sum.findIndex((n) => n), end = sum.length - [...sum].reverse().findIndex((n) => n);
  first = Math.max(0, first - 2); end = Math.min(sum.length, Math.max(end + 2, first + 8));
  const wide = width / (end - first), most = Math.max(...sum), bottom = height - 32;
  const palette = ["accent", "index", "pinned", "filling", "used", "cached"];
  for (let n = first; n < end; n += 1) {
    let y = bottom;
    used.forEach((each, k) => {
      const tall = (each.latency.counts[n] / most) * (bottom - 12);
      pen.fillStyle = colour(palette[k % palette.length]);
      pen.fillRect((n - first) * wide + 1, y - tall, Math.max(1, wide - 2), tall);
      y -= tall;
    });
    pen.fillStyle = colour("dim");
    if ((n - first) % Math.ceil(44 / wide) === 0) pen.fillText(n ? time(2 ** (9 + n) / 1e9) : "0", (n - first) * wide, bottom + 13);
  }
  let x = 0;
  used.forEach((each, k) => {
    const text = each.source + ": " + number(each.requests) + (each.errors ? ", " + number(each.errors) + " failed" : "");
    pen.fillStyle = colour(palette[k % palette.length]); pen.fillRect(x, height - 11, 9, 9);
    pen.fillStyle = colour("dim"); pen.fillText(text, x + 14, height - 3);
    x += pen.measureText(text).width + 32;
  });
  canvas.setAttribute("aria-label", used.map((each) => each.source + ": " + each.requests + " requests").join(", "));
}

// The picture of the pages.

async function picture() {
  if (drawing) return;
  drawing = true;
  try {
    const answer = await fetch("pages?pool=" + encodeURIComponent(pool));
    if (answer.ok) { dots = new Uint8Array(await answer.arrayBuffer()); paint(); }
  } catch { /* the next event tries again */ } finally { drawing = false; }
}

function shape() {
  const count = dots.length / 2, width = $("dots").clientWidth;
  let size = 12;
  while (size > 2 && Math.ceil(count / Math.floor(width / size)) * size > 260) size -= 1;
  const columns = Math.max(1, Math.floor(width / size));
  return { count, size, columns, rows: Math.ceil(count / columns) };
}

function tint(by) {
  const names = Object.fromEntries([...COLOURS, "used", "pinned"].map((name) => [name, colour(name)]));
  return (state, object) => {
    const kind = state & 7;
    if (by === "state" || kind !== 2) {
      if (kind === 2) return state & 8 ? names.pinned : state & 16 ? names.used : names.cached;
      return names[COLOURS[kind]] || names.changing;
    }
    if (by === "object") return `hsl(${(object * 360) / 256} 45% ${state & 16 ? 48 : 62}%)`;
    return `hsl(200 ${state & 16 ? 60 : 15}% ${[75, 68, 55, 38][(state >> 5) & 3]}%)`;
  };
}

function paint() {
  const canvas = $("dots"), { count, size, columns, rows } = shape(), scale = devicePixelRatio || 1;
  canvas.style.height = rows * size + "px";
  canvas.width = Math.round(canvas.clientWidth * scale); canvas.height = Math.round(rows * size * scale);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  const by = document.querySelector("input[name=colour]:checked").value, of = tint(by), gap = size > 3 ? 1 : 0;
  for (let n = 0; n < count; n += 1) {
    pen.fillStyle = of(dots[2 * n], dots[2 * n + 1]);
    pen.fillRect((n % columns) * size, Math.floor(n / columns) * size, size - gap, size - gap);
  }
  if (document.activeElement === canvas && cursor < count) {
    pen.strokeStyle = colour("text"); pen.lineWidth = 2;
    pen.strokeRect((cursor % columns) * size, Math.floor(cursor / columns) * size, size, size);
  }
  canvas.dataset.dots = count;
  legend(by, count);
}

function legend(by, count) {
  const kinds = STATES.map((text, n) => [text, COLOURS[n]]).filter(([text]) => text !== "changing");
  const shown = by === "state" ? [...kinds, ["used lately", "used"], ["pinned", "pinned"]] : kinds.filter(([text]) => text !== "cached");
  const made = shown.map(([text, name]) => {
    const span = document.createElement("span"), i = document.createElement("i");
    i.style.background = colour(name); span.append(i, text);
    return span;
  });
  const each = last ? last.pages_per_dot * last.statistics.page_size : 0;
  const note = { state: "", object: "Each object has a colour; darker: used lately. ", age: "The darker, the longer kept; blue: used lately. " }[by];
  const size = document.createElement("span");
  size.textContent = note + (each ? "One dot is " + bytes(each) + "." : "");
  $("legend").replaceChildren(...made, size);
  const used = []; for (let n = 0; n < count; n += 1) used[dots[2 * n] & 7] = (used[dots[2 * n] & 7] || 0) + 1;
  $("dots").setAttribute("aria-label", STATES.map((text, n) => used[n] && text + " " + percent(used[n] / count)).filter(Boolean).join(", "));
}

function tell(n) {
  if (!(n >= 0 && n < dots.length / 2)) { $("dot").textContent = ""; return; }
  const state = dots[2 * n], stride = last ? last.pages_per_dot : 1;
  const parts = [STATES[state & 7] || "changing"];
  if (state & 8) parts.push("pinned");
  if (state & 16) parts.push("used lately");
  if ((state & 7) === 2) parts.push(AGES[(state >> 5) & 3]);
  $("dot").textContent = "page " + number(n * stride) + (stride > 1 ? " to " + number((n + 1) * stride - 1) : "") + ": " + parts.join(", ");
}

$("dots").onpointermove = (event) => {
  const { size, columns } = shape();
  tell(Math.floor(event.offsetY / size) * columns + Math.floor(event.offsetX / size));
};
$("dots").onpointerleave = () => tell(-1);
$("dots").onkeydown = (event) => {
  const { count, columns } = shape();
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -cursor, End: count - 1 - cursor }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  cursor = Math.min(count - 1, Math.max(0, cursor + step));
  paint(); tell(cursor);
};
$("dots").onfocus = $("dots").onblur = () => paint();
for (const each of document.querySelectorAll("input[name=colour]")) each.onchange = paint;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (last) { charts(); latency(last.statistics); paint(); } });
addEventListener("resize", () => { if (last) { charts(); latency(last.statistics); paint(); } });

async function ask(what) {
  const answer = await fetch(what + "?pool=" + encodeURIComponent(pool));
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}
$("ask-findings").onclick = async () => {
  $("findings").textContent = "checking";
  try {
    const found = await ask("findings");
    $("findings").textContent = found.length ? found.map((f) => `${f.check} ${f.where}: ${f.message}`).join("\n") : "Everything agrees.";
  } catch (error) { $("findings").textContent = String(error.message); }
};
$("ask-names").onclick = async () => {
  const found = await ask("names");
  table("names", found.map((n) => [n.key, n.exists === null ? "asking" : n.exists ? bytes(n.size) : "none", n.age === null ? "" : ago(n.age)]), "none");
};
listen();
