"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const STATUSES = ["changed", "removed", "added", "renamed", "within", "equal"];
const PAGE = 400;

function make(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties || {})) {
    if (key in node) node[key] = value; else node.setAttribute(key, value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}
const number = text => typeof text === "string"
  ? {Infinity: Infinity, "-Infinity": -Infinity, NaN: NaN}[text] : text;
function short(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "string") return {Infinity: "∞", "-Infinity": "−∞"}[value] || value;
  if (Math.abs(value) === Infinity) return value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(3)))
    : value.toExponential(2).replace("e+", "e");
}
const paint = (node, status) => {
  node.style.setProperty("--of", `var(--${status})`);
  node.style.setProperty("--bg-of", `var(--${status}-bg)`);
  return node;
};
// a relative change of 1e-8 or less is the lowest step, of 1 or more the highest
const share = change => change > 0 ? Math.min(1, Math.max(0, 1 + Math.log10(change) / 8)) : 0;
const heat = change => change > 0 ? `var(--c${1 + Math.min(5, Math.floor(share(change) * 6))})`
  : "var(--c0)";

const rows = data.rows.map((row, index) => {
  const values = row.values || {};
  return {...row, index, differ: row.values && values.n ? values.n_diff / values.n : null,
    size: row.params, change: row.values ? number(values.rel_l2) : null,
    max_abs: row.values ? number(values.max_abs) : null,
    max_rel: row.values ? number(values.max_rel) : null,
    ulp: row.values ? values.max_ulp : null,
    text: [row.name, row.new_name, row.dtype, row.shape, row.status, ...row.hints]
      .join(" ").toLowerCase()};
});
const state = {sort: "index", down: false, search: "", layer: null, role: "", limit: PAGE,
  statuses: new Set(STATUSES.filter(status => data.same || status !== "equal"))};

// ---- header ------------------------------------------------------------------------------------
for (const [side, file] of [["old", data.old], ["new", data.new]]) {
  $("files").append(make("div", {className: `file ${side}`},
    make("span", {className: "side"}, side.toUpperCase()), document.createElement("br"),
    make("b", {}, file.path), make("p", {}, file.about)));
}
$("verdict").className = "verdict " + (data.same ? "same" : "different");
const [verdict, ...rest] = data.verdict.split("; left out: ");
$("verdict").append(verdict, make("span", {}, data.totals +
  (rest.length ? " · left out: " + rest.join("; left out: ") : "")));
for (const line of data.beside) $("notes").append(make("li", {}, line));
for (const warning of data.warnings) $("notes").append(make("li", {}, warning));
$("footer").append(data.footer);

// ---- layers ------------------------------------------------------------------------------------
const layers = new Map();
for (const row of rows) {
  const layer = layers.get(row.layer) || {name: row.layer, rows: 0, different: 0, dd: [0, 0],
    aa: [0, 0], statuses: new Set()};
  layer.rows += 1;
  if (row.is_difference) { layer.different += 1; layer.statuses.add(row.status); }
  // sums of squares of the change and of OLD, over the tensors that changed
  const dd = row.change > 0 && row.change < Infinity
    ? number(row.values.rmse) ** 2 * row.values.n : 0;
  if (dd) {
    const at = Number(row.role === "slot");
    layer.dd[at] += dd;
    layer.aa[at] += dd / row.change ** 2;
  }
  layers.set(row.layer, layer);
}
// slots change by their nature: a layer's colour is that of its weights, where those changed
for (const layer of layers.values()) {
  const at = layer.dd[0] ? 0 : 1;
  layer.change = layer.dd[at] ? Math.sqrt(layer.dd[at] / layer.aa[at]) : 0;
  layer.special = layer.change ? null
    : ["added", "removed", "renamed", "changed"].find(status => layer.statuses.has(status));
}
const describe = layer => `${layer.name || "(root)"} · ${layer.different} of ${layer.rows} ` +
  `tensors differ` + (layer.change ? ` · relative change ${short(layer.change)}` : "") +
  (layer.special ? ` · ${layer.special}` : "");
for (const layer of layers.values()) {
  const cell = make("button", {type: "button", title: describe(layer),
    "aria-label": describe(layer), "aria-pressed": "false"});
  // no relative change to speak of: the tensor is new, gone, or was all zeros
  cell.style.setProperty("--fill", layer.special ? `var(--${layer.special}-bg)`
    : heat(layer.change));
  cell.style.setProperty("--h", layer.special ? "100%" : `${12 + 88 * share(layer.change)}%`);
  cell.addEventListener("mouseenter", () => { $("tip").textContent = describe(layer); });
  cell.addEventListener("focus", () => { $("tip").textContent = describe(layer); });
  cell.addEventListener("click", () => {
    state.layer = state.layer === layer.name ? null : layer.name;
    render(true);
  });
  layer.cell = cell;
  $("strip").append(cell);
}
$("strip").addEventListener("mouseleave", tip);
function tip() {
  $("tip").textContent = state.layer === null ? `${layers.size} layers; click one to filter`
    : describe(layers.get(state.layer));
}
$("strip-section").hidden = layers.size < 2;
$("strip").classList.toggle("many", layers.size > 150);
$("legend").append("1e-8");
for (let step = 1; step <= 6; step++)
  $("legend").append(make("i", {style: `background:var(--c${step})`}));
$("legend").append("1 relative change");

// ---- histograms --------------------------------------------------------------------------------
const SVG = "http://www.w3.org/2000/svg";
function drawn(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}
for (const {change, limit, counts} of data.histograms) {
  const row = rows[change], top = Math.log1p(Math.max(...counts));
  const picture = drawn("svg", {viewBox: `0 0 ${counts.length} 40`, preserveAspectRatio: "none",
    role: "img", "aria-label": `histogram of the change of ${row.name}`});
  counts.forEach((count, at) => {
    const height = top ? 39 * Math.log1p(count) / top : 0;
    if (height) picture.append(drawn("rect",
      {class: "bin", x: at + .08, y: 40 - height, width: .84, height}));
  });
  const middle = counts.length / 2;
  picture.append(drawn("line", {class: "zero", x1: middle, x2: middle, y1: 0, y2: 40,
    "vector-effect": "non-scaling-stroke"}));
  const card = make("button", {type: "button", className: "histogram", title: row.name},
    make("b", {}, row.name), picture,
    make("div", {className: "axis"}, make("span", {}, "−" + short(limit)),
      make("span", {}, "0"), make("span", {}, "+" + short(limit))),
    make("p", {}, `relative change ${short(row.change)} · RMSE ${short(number(row.values.rmse))}` +
      ` · ${short(row.values.n_diff)} of ${short(row.values.n)} differ`));
  card.addEventListener("click", () => {
    $("search").value = state.search = row.name.toLowerCase(); state.layer = null; render(true);
    $("table").scrollIntoView({block: "center"});
  });
  $("histograms").append(card);
}
$("histogram-section").hidden = !data.histograms.length;

// ---- table -------------------------------------------------------------------------------------
const COLUMNS = [["status", "status"], ["name", "name"], ["role", "role"], ["dtype", "dtype"],
  ["shape", "shape", "size"], ["differ", "differ", "differ", 1],
  ["max abs", "max_abs", "max_abs", 1], ["max rel", "max_rel", "max_rel", 1],
  ["relative change", "change", "change", 1],
  ["worst element", "worst"]];
for (const [title, key, by, numeric] of COLUMNS) {
  const head = make("th", {scope: "col", className: numeric ? "n" : ""});
  head.dataset.key = by || key;
  const button = make("button", {type: "button"}, title);
  button.addEventListener("click", () => {
    const sort = head.dataset.key;
    if (state.sort !== sort) { state.sort = sort; state.down = Boolean(numeric); }
    else if (state.down === Boolean(numeric)) state.down = !state.down;
    else { state.sort = "index"; state.down = false; }
    render(true);
  });
  head.append(button);
  $("columns").append(head);
}
const collator = new Intl.Collator("en", {numeric: true});
function compare(one, two) {
  const a = one[state.sort], b = two[state.sort];
  const empty = value => value === null || value === undefined || Number.isNaN(value);
  if (empty(a) || empty(b)) return empty(a) - empty(b) || one.index - two.index;
  const order = state.sort === "status" ? STATUSES.indexOf(a) - STATUSES.indexOf(b)
    : typeof a === "number" ? (a < b ? -1 : a > b ? 1 : 0) : collator.compare(a, b);
  return (state.down ? -order : order) || one.index - two.index;
}
function visible() {
  const words = state.search.split(/\s+/).filter(Boolean);
  return rows.filter(row => state.statuses.has(row.status)
    && (state.layer === null || row.layer === state.layer)
    && (!state.role || row.role === state.role)
    && words.every(word => row.text.includes(word))).sort(compare);
}
function element(row) {
  const meter = row.change === null ? "" : make("span", {className: "meter"},
    make("i", {style: `width:${100 * share(row.change)}%;background:${heat(row.change)}`}));
  const name = make("td", {className: "name"}, row.name);
  if (row.new_name && row.new_name !== row.name) name.append(" → " + row.new_name);
  for (const hint of row.hints) name.append(make("span", {className: "hint"}, hint));
  const line = make("tr", {className: "row", tabIndex: 0, "aria-expanded": "false"},
    make("td", {}, paint(make("span", {className: "status"}, row.status), row.status)),
    name, make("td", {}, row.role), make("td", {className: "mono"}, row.dtype),
    make("td", {className: "mono"}, row.shape),
    make("td", {className: "n"}, row.differ === null ? "" : percent(row)),
    make("td", {className: "n"}, short(row.max_abs)),
    // of nothing that differs there is a relative change: undefined, which is not 0
    make("td", {className: "n"}, row.values && row.max_rel === null ? "-" : short(row.max_rel)),
    make("td", {className: "n"}, short(row.change), meter),
    make("td", {className: "mono"}, row.worst));
  line.dataset.name = row.name;
  const toggle = () => {
    if (line.getAttribute("aria-expanded") === "true") line.nextSibling.remove();
    else line.after(details(row));
    line.setAttribute("aria-expanded", String(line.getAttribute("aria-expanded") !== "true"));
  };
  line.addEventListener("click", toggle);
  line.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); }
  });
  return line;
}
function percent(row) {
  const part = 100 * row.differ;
  return row.differ === 0 ? "0" : row.differ === 1 ? "100%"
    : part < .01 ? short(row.values.n_diff) + " el." : Number(part.toPrecision(3)) + "%";
}
function details(row) {
  const list = make("dl");
  const add = (title, value, wide) => {
    if (value === null || value === undefined || value === "") return;
    list.append(make("div", wide ? {className: "wide"} : {}, make("dt", {}, title),
      make("dd", {}, short(value))));
  };
  add("key in OLD", row.old_key, true);
  add("key in NEW", row.new_key, true);
  add("paired by", row.evidence);
  add("compared by", row.method);
  add("cast", row.cast);
  if (row.values) {
    const v = row.values;
    add("elements that differ", `${short(v.n_diff)} of ${short(v.n)}`);
    add("outside the tolerance", `${short(v.n_outside)} (rtol ${v.rtol}, atol ${v.atol})`);
    if (v.rule !== "default") add("tolerance rule", v.rule);
    for (const [title, key] of [["max abs", "max_abs"], ["max rel", "max_rel"],
      ["mean abs", "mean_abs"], ["RMSE", "rmse"], ["max ULP", "max_ulp"],
      ["relative change (L2)", "rel_l2"], ["non-finite on one side", "nonfinite"],
      ["smallest rtol that passes", "needed_rtol"]]) add(title, v[key]);
    add("cosine", typeof v.cosine === "number" ? v.cosine.toPrecision(9) : v.cosine);
    add("worst element", row.worst);
  }
  const line = make("tr", {className: "more"}, make("td", {colSpan: COLUMNS.length}, list));
  return line;
}
function render(fresh) {
  if (fresh) state.limit = PAGE;
  const found = visible();
  $("rows").replaceChildren(...found.slice(0, state.limit).map(element));
  $("shown").textContent = `${found.length.toLocaleString("en")} of ` +
    `${rows.length.toLocaleString("en")} tensors`;
  const left = found.length - state.limit;
  $("more").hidden = left <= 0;
  $("more").textContent = `show ${Math.min(PAGE, left)} more of ${left.toLocaleString("en")}`;
  for (const head of $("columns").children) {
    if (head.dataset.key === state.sort)
      head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  for (const layer of layers.values())
    layer.cell.setAttribute("aria-pressed", String(state.layer === layer.name));
  $("clear").hidden = !(state.search || state.layer !== null || state.role);
  tip();
}

// ---- controls ----------------------------------------------------------------------------------
for (const status of STATUSES) {
  const count = rows.filter(row => row.status === status).length;
  if (!count) continue;
  const chip = paint(make("button", {type: "button", className: "chip"},
    `${status} ${count.toLocaleString("en")}`), status);
  chip.dataset.status = status;
  chip.setAttribute("aria-pressed", String(state.statuses.has(status)));
  chip.addEventListener("click", () => {
    if (!state.statuses.delete(status)) state.statuses.add(status);
    chip.setAttribute("aria-pressed", String(state.statuses.has(status)));
    render(true);
  });
  $("chips").append(chip);
}
const roles = [...new Set(rows.map(row => row.role))];
$("role").append(make("option", {value: ""}, "all roles"),
  ...roles.map(role => make("option", {value: role}, role)));
$("role").hidden = roles.length < 2;
$("role").addEventListener("change", () => { state.role = $("role").value; render(true); });
$("search").addEventListener("input", () => {
  state.search = $("search").value.toLowerCase();
  render(true);
});
$("clear").addEventListener("click", () => {
  state.search = $("search").value = $("role").value = state.role = "";
  state.layer = null;
  render(true);
});
$("more").addEventListener("click", () => { state.limit += PAGE; render(false); });

const dark = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
const theme = () => {
  document.documentElement.dataset.theme = chosen || (dark.matches ? "dark" : "light");
};
dark.addEventListener("change", theme);
$("theme").addEventListener("click", () => {
  chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  theme();
});
theme();
render(true);
document.body.dataset.ready = "yes";
