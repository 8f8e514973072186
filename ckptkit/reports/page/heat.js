// ---- heat maps of two axes of a tensor: blue below zero, red above --------------------------------
DRAW.heat = spec => {
  const grid = make("div", {className: "heats"});
  const node = section(spec, grid);
  const legend = make("span", {className: "legend"}, short(-spec.limit));
  const scale = make("i", {className: "scale"});
  legend.append(scale, short(spec.limit));
  if (spec.bad) {
    const key = make("i", {className: "key odd"});
    legend.append(key, "NaN or infinite");
  }
  node.firstChild.append(legend);
  if (spec.about) node.append(make("p", {className: "dim"}, spec.about));
  for (const one of spec.slices) grid.append(heatMap(one, spec));
  return node;
};
function heatMap({title, rows, columns, values}, spec) {
  const down = values.length, across = values[0].length;
  const size = Math.max(3, Math.min(26, Math.floor(380 / Math.max(down, across))));
  const canvas = make("canvas", {tabIndex: 0, role: "application",
    "aria-label": `heat map of ${title}: arrow keys move`});
  const tip = make("p", {className: "tip", "aria-live": "polite"}, " ");
  const at = [0, 0];
  let chosen = false;
  function mixed(value, shades) {
    const part = spec.limit ? Math.min(1, Math.abs(value) / spec.limit) : 0;
    const [from, to] = [shades.zero, value < 0 ? shades.minus : shades.plus];
    const mix = from.map((one, index) => Math.round(one + (to[index] - one) * part ** .8));
    return `rgb(${mix.join(",")})`;
  }
  const parts = hex => [1, 3, 5].map(start => parseInt(hex.slice(start, start + 2), 16));
  function draw() {
    const shades = {minus: parts(colour("--minus")), plus: parts(colour("--plus")),
      zero: parts(colour("--zero"))};
    const scale = devicePixelRatio || 1, pen = canvas.getContext("2d");
    canvas.width = across * size * scale;
    canvas.height = down * size * scale;
    canvas.style.width = `${across * size}px`;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    const gap = size > 5 ? 1 : 0;
    for (let y = 0; y < down; y++) for (let x = 0; x < across; x++) {
      const value = number(values[y][x]);
      const odd = !Number.isFinite(value);
      pen.fillStyle = odd ? colour("--k3") : mixed(value, shades);
      pen.fillRect(x * size, y * size, size - gap, size - gap);
      if (odd) {
        pen.strokeStyle = colour("--card");
        pen.beginPath();
        pen.moveTo(x * size, y * size);
        pen.lineTo((x + 1) * size - gap, (y + 1) * size - gap);
        pen.stroke();
      }
    }
    if (chosen) {
      pen.strokeStyle = colour("--ink");
      pen.lineWidth = 2;
      pen.strokeRect(at[0] * size, at[1] * size, size - gap, size - gap);
    }
  }
  function tell() {
    chosen = true;
    draw();
    const value = number(values[at[1]][at[0]]);
    const place = [...(rows ? [rows[at[1]]] : []), columns[at[0]]].join(",");
    tip.textContent = `[${one(title)}${place}] = ${Number.isNaN(value) ? "NaN" : short(value)}`;
  }
  const one = text => { const found = /\[(.*):,:\]$/.exec(text); return found ? found[1] : ""; };
  canvas.addEventListener("mousemove", event => {
    const box = canvas.getBoundingClientRect(), ratio = box.width / (across * size) || 1;
    const x = Math.floor((event.clientX - box.left) / size / ratio);
    const y = Math.floor((event.clientY - box.top) / size / ratio);
    if (x < 0 || y < 0 || x >= across || y >= down) return;
    at[0] = x;
    at[1] = y;
    tell();
  });
  canvas.addEventListener("focus", tell);
  const ways = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
    Home: [-across, 0], End: [across, 0]};
  canvas.addEventListener("keydown", event => {
    const way = ways[event.key];
    if (!way) return;
    event.preventDefault();
    at[0] = Math.max(0, Math.min(across - 1, at[0] + way[0]));
    at[1] = Math.max(0, Math.min(down - 1, at[1] + way[1]));
    tell();
  });
  onTheme.push(draw);
  onReady.push(draw);
  return make("figure", {}, make("figcaption", {}, title), canvas, tip);
}
