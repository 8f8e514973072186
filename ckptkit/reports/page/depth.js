// ---- error along depth: a point per value inside of a model, in the order of computation -------------
// line: each side fed with its own values; bars: the layer alone, fed with the reference's.
DRAW.depth = spec => {
  const canvas = make("canvas", {tabIndex: 0, role: "application",
    "aria-label": `${spec.title}: arrow keys move, Enter opens the value`});
  const tip = make("div", {className: "tip", "aria-live": "polite"});
  const legend = make("span", {className: "legend"},
    make("i", {className: "key alone"}), "the layer alone",
    make("i", {className: "key with"}), "with its inputs' error",
    make("i", {className: "key limit"}), "allowed");
  const node = section(spec, make("div", {className: "depth"}, canvas), tip);
  node.firstChild.append(legend);
  const points = spec.points, count = points.length, HIGH = 240, FOOT = 20, LEFT = 46;
  let at = Math.max(0, points.findIndex(point => point.blamed));
  const known = points.flatMap(point => [point.alone, point.with, point.allowed].map(number))
    .filter(value => value > 0 && Number.isFinite(value));
  const low = Math.floor(Math.log10(Math.min(1e-8, ...known)));
  const top = Math.ceil(Math.log10(Math.max(1e-3, ...known))) + 1;
  const y = value => value > 0 ? Number.isFinite(value)
    ? HIGH - FOOT - (HIGH - FOOT - 14) * (Math.log10(value) - low) / (top - low) : 4 : HIGH - FOOT;
  let step = 10;
  const x = index => LEFT + step * index + step / 2;
  function draw() {
    const room = canvas.parentNode.clientWidth || 600;
    // a picture may not be of any width
    const least = Math.min(6, 15000 / count);
    step = Math.max(least, Math.min(150, (room - LEFT - 8) / Math.max(1, count)));
    const wide = LEFT + step * count + 8, scale = devicePixelRatio || 1;
    canvas.width = wide * scale;
    canvas.height = HIGH * scale;
    canvas.style.width = `${wide}px`;
    canvas.style.height = `${HIGH}px`;
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.font = "11px system-ui,sans-serif";
    pen.textAlign = "right";
    pen.lineWidth = 1;
    const every = Math.ceil((top - low) / 6);
    for (let power = low; power <= top; power += every) {
      pen.fillStyle = colour("--dim");
      pen.fillText(`1e${power}`, LEFT - 6, y(10 ** power) + 4);
      pen.fillStyle = colour("--line");
      pen.fillRect(LEFT, y(10 ** power), wide - LEFT, 1);
    }
    pen.fillStyle = colour("--accent-bg");
    pen.fillRect(x(at) - step / 2, 0, step, HIGH - FOOT);
    points.forEach((point, index) => {
      const alone = number(point.alone);
      if (alone === null) return;
      pen.fillStyle = point.blamed ? colour("--bad") : point.beyond ? colour("--warn")
        : colour("--k0");
      const height = Math.max(alone > 0 ? 3 : 1, HIGH - FOOT - y(alone));
      const bar = Math.min(44, step - 2);
      pen.fillRect(x(index) - bar / 2, HIGH - FOOT - height, bar, height);
      if (Number.isNaN(alone) || alone === Infinity) {
        pen.textAlign = "center";
        pen.fillText("∞", x(index), 12);
      }
    });
    line(pen, "with", colour("--dim"), []);
    line(pen, "allowed", colour("--good"), [5, 4]);
    const blamed = points.findIndex(point => point.blamed);
    if (blamed >= 0) {
      pen.fillStyle = colour("--bad");
      pen.font = "600 12px system-ui,sans-serif";
      const text = clipped(points[blamed].layer, 40), half = pen.measureText(text).width / 2;
      pen.textAlign = "center";
      const middle = Math.max(LEFT + half, Math.min(wide - half - 4, x(blamed)));
      pen.fillText(text, middle, HIGH - 5);
    }
    tell();
  }
  function line(pen, key, style, dashes) {
    pen.strokeStyle = style;
    pen.fillStyle = style;
    pen.lineWidth = 1.6;
    pen.setLineDash(dashes);
    pen.beginPath();
    let on = false;
    points.forEach((point, index) => {
      const value = number(point[key]);
      if (value === null) { on = false; return; }
      pen[on ? "lineTo" : "moveTo"](x(index), y(value));
      on = true;
    });
    pen.stroke();
    pen.setLineDash([]);
    if (!dashes.length) points.forEach((point, index) => {
      if (number(point[key]) === null) return;
      pen.beginPath();
      pen.arc(x(index), y(number(point[key])), 2.4, 0, 7);
      pen.fill();
    });
  }
  function tell() {
    const point = points[at];
    if (!point) return;
    tip.textContent = `${at + 1} of ${count} · ${clipped(point.layer)}` +
      (point.value ? ` · ${clipped(point.value, 60)}` : "") +
      (point.kind ? ` (${point.kind})` : "") +
      (point.alone === null ? "" : ` · alone ${short(point.alone)}`) +
      (point.with === null ? "" : ` · with its inputs' error ${short(point.with)}`) +
      (point.allowed === null ? "" : ` · allowed ${short(point.allowed)}`) +
      (point.blamed ? " · look at this one" : point.beyond ? " · beyond the tolerance" : "");
  }
  const place = event => Math.floor((event.clientX - canvas.getBoundingClientRect().left - LEFT)
    / step);
  canvas.addEventListener("mousemove", event => {
    const to = place(event);
    if (to >= 0 && to < count && to !== at) { at = to; draw(); }
  });
  const open = () => shown[spec.of].show(at);
  canvas.addEventListener("click", event => { if (place(event) === at) open(); });
  canvas.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); return; }
    const to = event.key === "Home" ? 0 : event.key === "End" ? count - 1
      : event.key in STEPS ? at + STEPS[event.key] : -1;
    if (to < 0 || to >= count) return;
    event.preventDefault();
    at = to;
    draw();
  });
  node.hidden = count < 2;
  onTheme.push(draw);
  onPrint.push(draw);
  onReady.push(draw);
  window.addEventListener("resize", draw);
  return node;
};
