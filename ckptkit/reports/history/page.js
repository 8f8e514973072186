const steps = data.steps, COUNT = steps.length;

// ---- numbers -----------------------------------------------------------------------------------
const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
// two bytes are the upper half of a float32
function unpack(text) {
  const halves = bytes(text), whole = new Uint8Array(2 * halves.length);
  for (let at = 0; at < halves.length; at += 2) {
    whole[2 * at + 2] = halves[at];
    whole[2 * at + 3] = halves[at + 1];
  }
  return new Float32Array(whole.buffer);
}
function spread(pairs) {
  const values = new Float64Array(COUNT);
  for (let at = 0; at < pairs.length; at += 2) values[pairs[at]] = pairs[at + 1];
  return values;
}
for (const tensor of data.tensors) {
  for (const name of ["norm", "update", "mean", "std", "min", "max"])
    tensor[name] = unpack(tensor[name]);
  for (const name of ["zeros", "bad", "dead"])
    tensor[name] = typeof tensor[name] === "string"
      ? Float64Array.from(bytes(tensor[name]), b => Math.ceil((b / 255) ** 4 * tensor.size))
      : spread(tensor[name]);
  tensor.there = Array.from(tensor.norm, (norm, at) => !Number.isNaN(norm) || tensor.bad[at] > 0);
}
const hypot = values => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
const known = values => values.filter(value => !Number.isNaN(value));
const all = (tensors, name, at) => known(tensors.map(tensor => tensor[name][at]));
function before(tensor, at) {
  for (let step = at - 1; step >= 0; step--) if (tensor.there[step]) return tensor.norm[step];
  return NaN;
}
const size = tensors => tensors.reduce((sum, tensor) => sum + tensor.size, 0);
const total = (tensors, name, at) => tensors.reduce((sum, tensor) => sum + tensor[name][at], 0);
const METRICS = {
  "update / norm": (tensors, at) => {
    const moved = tensors.filter(tensor => !Number.isNaN(tensor.update[at]));
    const old = hypot(known(moved.map(tensor => before(tensor, at))));
    return moved.length && old ? hypot(moved.map(tensor => tensor.update[at])) / old : NaN;
  },
  "norm": (tensors, at) => {
    const norms = all(tensors, "norm", at);
    return norms.length ? hypot(norms) : NaN;
  },
  "norm / first norm": (tensors, at) => {
    const first = steps.findIndex((_, step) => all(tensors, "norm", step).length);
    const norms = all(tensors, "norm", at);
    return norms.length ? hypot(norms) / hypot(all(tensors, "norm", first)) : NaN;
  },
  "update": (tensors, at) => {
    const moved = all(tensors, "update", at);
    return moved.length ? hypot(moved) : NaN;
  },
  "largest magnitude": (tensors, at) => {
    const both = [...all(tensors, "min", at), ...all(tensors, "max", at)].map(Math.abs);
    return both.length ? Math.max(...both) : NaN;
  },
  "std": (tensors, at) => {
    const stds = all(tensors, "std", at);
    return stds.length ? Math.max(...stds) : NaN;
  },
  "share of zeros": (tensors, at) => total(tensors, "zeros", at) / size(tensors),
  "NaN and infinities": (tensors, at) => total(tensors, "bad", at),
  "dead units": (tensors, at) => total(tensors, "dead", at),
};
const COLORS = 7;

// ---- state -------------------------------------------------------------------------------------
const roles = [...new Set(data.tensors.map(tensor => tensor.role))];
const state = {metric: "update / norm", role: roles.includes("weight") ? "weight" : roles[0] || "",
  layer: 0, step: 0, open: null};
let rows = [], values = [], range = [0, 0];
function compute() {
  const groups = new Map();
  for (const tensor of data.tensors) {
    if (tensor.role !== state.role) continue;
    if (!groups.has(tensor.layer)) groups.set(tensor.layer, []);
    groups.get(tensor.layer).push(tensor);
  }
  rows = [...groups].map(([layer, tensors]) => ({layer, tensors, name: data.layers[layer]}));
  const metric = METRICS[state.metric];
  values = rows.map(row => steps.map((_, at) =>
    row.tensors.some(tensor => tensor.there[at]) ? metric(row.tensors, at) : NaN));
  let low = Infinity, high = -Infinity;
  for (const line of values) for (const value of line) if (value > 0 && value < Infinity) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  range = low <= high ? [low, high] : [0, 0];
  state.layer = Math.min(state.layer, Math.max(0, rows.length - 1));
}
// colours go by the order of magnitude; 0 is the palest, what is not finite is marked
function color(value) {
  if (!(value > 0)) return 0;
  if (range[1] === range[0]) return COLORS - 1;
  const share = (Math.log(value) - Math.log(range[0])) / (Math.log(range[1]) - Math.log(range[0]));
  return 1 + Math.min(COLORS - 2, Math.floor(share * (COLORS - 1)));
}

// ---- map ---------------------------------------------------------------------------------------
const canvas = $("map"), pen = canvas.getContext("2d");
const HEAD = 22;
let cell = {w: 10, h: 16};
function draw() {
  const style = getComputedStyle(document.documentElement);
  const of = name => style.getPropertyValue(name).trim();
  const palette = Array.from({length: COLORS}, (_, step) => of(`--c${step}`));
  const room = Math.max(300, $("map").closest("section").clientWidth - 330);
  cell = {w: Math.max(4, Math.min(40, Math.floor(room / COUNT))), h: rows.length > 120 ? 11 : 17};
  const scale = window.devicePixelRatio || 1;
  const width = cell.w * COUNT + 2, height = HEAD + cell.h * rows.length + 2;
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.font = "11px system-ui,sans-serif";
  pen.fillStyle = of("--dim");
  const every = Math.ceil(48 / cell.w);
  for (let at = 0; at < COUNT; at += every)
    pen.fillText(short(steps[at].n), at * cell.w + 1, HEAD - 8);
  const gap = cell.w > 6 ? 1 : 0;
  rows.forEach((row, y) => steps.forEach((_, x) => {
    const value = values[y][x];
    const there = row.tensors.some(tensor => tensor.there[x]);
    const bad = row.tensors.some(tensor => tensor.bad[x]) || Math.abs(value) === Infinity;
    pen.fillStyle = bad ? of("--bad") : there && !Number.isNaN(value) ? palette[color(value)]
      : of("--none");
    pen.fillRect(x * cell.w, HEAD + y * cell.h, cell.w - gap, cell.h - 1);
  }));
  for (const finding of data.findings) {
    if (finding.at === null || finding.severity === "note") continue;
    pen.fillStyle = of(finding.severity === "error" ? "--bad" : "--warn");
    const x = finding.at * cell.w + cell.w / 2;
    pen.beginPath();
    pen.moveTo(x - 4, HEAD - 6);
    pen.lineTo(x + 4, HEAD - 6);
    pen.lineTo(x, HEAD - 1);
    pen.fill();
    for (const layer of finding.layers) {
      const y = rows.findIndex(row => row.layer === layer);
      if (y < 0) continue;
      pen.strokeStyle = pen.fillStyle;
      pen.lineWidth = 2;
      pen.strokeRect(finding.at * cell.w, HEAD + y * cell.h, cell.w - gap, cell.h - 1);
    }
  }
  if (rows.length) {
    pen.strokeStyle = of("--accent");
    pen.lineWidth = 2;
    pen.strokeRect(state.step * cell.w, HEAD + state.layer * cell.h, cell.w - gap, cell.h - 1);
  }
  $("names").style.paddingTop = `${HEAD}px`;
  $("names").replaceChildren(...rows.map((row, y) => {
    const line = make("div", {title: row.name, className: y === state.layer ? "on" : ""},
      make("span", {}, ...named(row.name)));
    line.style.height = `${cell.h}px`;
    line.addEventListener("click", () => { state.layer = y; open(y); });
    return line;
  }));
  const legend = [short(range[0])];
  for (let step = 1; step < COLORS; step++)
    legend.push(make("i", {style: `background:var(--c${step})`}));
  legend.push(short(range[1]));
  $("legend").replaceChildren(...legend);
  tell();
}
function tell() {
  const row = rows[state.layer];
  if (!row) { $("tip").textContent = "nothing was measured"; return; }
  const step = steps[state.step], value = values[state.layer][state.step];
  const bad = total(row.tensors, "bad", state.step);
  const there = row.tensors.some(tensor => tensor.there[state.step]);
  const found = data.findings.filter(finding => finding.at === state.step
    && (!finding.layers.length || finding.layers.includes(row.layer)));
  $("tip").textContent = `${row.name} · step ${short(step.n)} (${step.name}) · ` +
    (there ? `${state.metric} ${short(value) || "not known"}` : "not measured") +
    (bad ? ` · ${short(bad)} NaN or infinite` : "") +
    found.map(finding => ` · ${finding.severity}: ${finding.message}`).join("");
}
function place(event) {
  const box = canvas.getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left) / cell.w);
  const y = Math.floor((event.clientY - box.top - HEAD) / cell.h);
  return x >= 0 && x < COUNT && y >= 0 && y < rows.length ? [x, y] : null;
}
canvas.addEventListener("mousemove", event => {
  const at = place(event);
  if (!at || (at[0] === state.step && at[1] === state.layer)) return;
  [state.step, state.layer] = at;
  draw();
});
canvas.addEventListener("click", event => {
  const at = place(event);
  if (at) { [state.step, state.layer] = at; open(at[1]); }
});
const MOVES = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
  Home: [-COUNT, 0], End: [COUNT, 0]};
canvas.addEventListener("keydown", event => {
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    open(state.layer);
  } else if (event.key in MOVES) {
    event.preventDefault();
    const within = (value, most) => Math.max(0, Math.min(most - 1, value));
    state.step = within(state.step + MOVES[event.key][0], COUNT);
    state.layer = within(state.layer + MOVES[event.key][1], rows.length);
    draw();
  }
});

// ---- one layer ---------------------------------------------------------------------------------
function chart(title, series, marks, text) {
  const finite = series.flat().filter(value => Number.isFinite(value));
  const low = Math.min(...finite), high = Math.max(...finite);
  const y = value => high > low ? 56 - 52 * (value - low) / (high - low) : 30;
  const x = at => COUNT > 1 ? 2 + 296 * at / (COUNT - 1) : 150;
  const picture = drawn("svg", {viewBox: "0 0 300 60", preserveAspectRatio: "none", role: "img",
    "aria-label": `${title}, from ${short(low)} to ${short(high)}`});
  series.forEach((line, index) => {
    let path = "", pen = "M";
    line.forEach((value, at) => {
      if (!Number.isFinite(value)) { pen = "M"; return; }
      path += `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
    });
    picture.append(drawn("path", {d: path + (path.includes("L") ? "" : "h2"),
      class: index ? "two" : "", "vector-effect": "non-scaling-stroke"}));
  });
  for (const at of marks)
    picture.append(drawn("line", {x1: x(at), x2: x(at), y1: 0, y2: 60,
      "vector-effect": "non-scaling-stroke"}));
  return make("div", {className: "chart"}, make("b", {}, title), picture,
    make("div", {className: "axis"}, make("span", {}, short(low)), make("span", {}, short(high))),
    make("p", {}, text));
}
function open(y) {
  const row = rows[y];
  if (!row) return;
  state.layer = y;
  state.open = row.layer;
  address.set("layer", row.name);
  address.set("step", steps[state.step].n);
  $("layer-section").hidden = false;
  $("layer").textContent = row.name;
  const marks = data.findings.filter(finding => finding.at !== null
    && finding.severity !== "note" && finding.layers.includes(row.layer)).map(f => f.at);
  const charts = [];
  for (const tensor of data.tensors) {
    if (tensor.layer !== row.layer) continue;
    const about = `${tensor.role} · ${tensor.dtype} · ${tensor.shape.join(",") || "scalar"}`;
    const ratio = steps.map((_, at) => tensor.update[at] / before(tensor, at));
    charts.push(chart(`${tensor.name}: norm`, [[...tensor.norm]], marks, about));
    charts.push(chart(`${tensor.name}: update / norm`, [ratio], marks,
      `stood still at ${tensor.same.length} of ${Math.max(0, COUNT - 1)} steps`));
    charts.push(chart(`${tensor.name}: min and max`, [[...tensor.max], [...tensor.min]], marks,
      `mean ${short(tensor.mean[COUNT - 1])}, std ${short(tensor.std[COUNT - 1])} at the end` +
      (tensor.bad[COUNT - 1] ? `, ${short(tensor.bad[COUNT - 1])} NaN or infinite` : "")));
  }
  $("charts").replaceChildren(...charts);
  draw();
  $("layer-section").scrollIntoView({block: "nearest"});
}
$("close").addEventListener("click", () => {
  state.open = null;
  address.set("layer", null);
  address.set("step", null);
  $("layer-section").hidden = true;
  canvas.focus();
});

// ---- findings ----------------------------------------------------------------------------------
for (const finding of data.findings) {
  const line = make("button", {type: "button"}, make("b", {}, finding.code), finding.message);
  line.addEventListener("click", () => {
    if (finding.at !== null) state.step = finding.at;
    const y = rows.findIndex(row => finding.layers.includes(row.layer));
    if (y >= 0) open(y); else draw();
  });
  $("findings").append(make("li", {className: finding.severity}, line));
}
$("findings-section").hidden = !data.findings.length;
roving($("findings"), "button");

// ---- two steps ---------------------------------------------------------------------------------
for (const [id, chosen] of [["from", 0], ["to", COUNT - 1]]) {
  steps.forEach((step, at) => $(id).append(
    make("option", {value: at, selected: at === chosen}, `${short(step.n)} · ${step.name}`)));
  $(id).addEventListener("change", pair);
}
function pair() {
  const ends = [Number($("from").value), Number($("to").value)];
  const low = Math.min(...ends), high = Math.max(...ends);
  const between = Array.from({length: high - low}, (_, at) => low + 1 + at);
  let changed = 0, count = 0;
  const lines = rows.map(row => {
    const both = row.tensors.filter(tensor => tensor.there[low] && tensor.there[high]);
    const moved = both.filter(tensor => between.some(at => tensor.there[at]
      && !tensor.same.includes(at)));
    changed += moved.length;
    count += both.length;
    const norms = ends.map(at => hypot(all(both, "norm", at)));
    const way = between.reduce((sum, at) => sum + hypot(all(both, "update", at)), 0);
    return make("tr", {}, make("td", {title: clipped(row.name, 400)}, clipped(row.name, 90)),
      make("td", {className: "n"}, `${moved.length} of ${both.length}`),
      ...[norms[0], norms[1], norms[1] / norms[0], way].map(value =>
        make("td", {className: "n"}, short(value))));
  });
  $("pairs").replaceChildren(...lines);
  $("between").textContent = `${changed} of ${count} tensors changed in between; ` +
    "“moved at most” adds up the updates on the way";
}

// ---- controls ----------------------------------------------------------------------------------
for (const name of Object.keys(METRICS)) $("metric").append(make("option", {value: name}, name));
for (const role of roles)
  $("role").append(make("option", {value: role, selected: role === state.role}, role));
for (const id of ["metric", "role"]) $(id).addEventListener("change", () => {
  state[id] = $(id).value;
  address.set(id, state[id]);
  compute();
  draw();
  pair();
});
window.addEventListener("resize", draw);
onTheme.push(draw);
onPrint.push(draw);

// ---- the address -------------------------------------------------------------------------------
function restore() {
  const metric = address.get("metric"), role = address.get("role");
  if (metric in METRICS) state.metric = metric;
  if (roles.includes(role)) state.role = role;
  $("metric").value = state.metric;
  $("role").value = state.role;
  compute();
  const step = steps.findIndex(each => String(each.n) === address.get("step"));
  if (step >= 0) state.step = step;
  draw();
  pair();
  const y = rows.findIndex(row => row.name === address.get("layer"));
  if (y >= 0) open(y);
}
onAddress.push(restore);
onReady.push(restore);
