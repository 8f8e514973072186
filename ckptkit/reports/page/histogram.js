// ---- histograms: counts in equal bins, heights logarithmic where asked for ------------------------
DRAW.histograms = spec => {
  const grid = make("div", {className: spec.pictures.length > 1 ? "grid" : ""});
  const node = section(spec, grid);
  if (spec.about) node.firstChild.append(make("span", {className: "dim"}, spec.about));
  for (const one of spec.pictures) grid.append(histogram(one, spec));
  roving(grid, "button");
  return node;
};
function histogram({counts, low, high, title, text, row}, spec) {
  const size = count => spec.logarithmic ? Math.log1p(count) : count;
  const top = size(Math.max(...counts));
  const what = `histogram of ${clipped(title)}, ${short(low)} to ${short(high)}`;
  const picture = drawn("svg", {viewBox: `0 0 ${counts.length} 40`, preserveAspectRatio: "none",
    role: "img", "aria-label": what});
  counts.forEach((count, at) => {
    const height = top ? 39 * size(count) / top : 0;
    if (!height) return;
    const bin = drawn("rect", {class: "bin", x: at + .08, y: 40 - height, width: .84, height});
    const width = (high - low) / counts.length;
    bin.append(drawn("title", {}, `${short(low + at * width)} to ` +
      `${short(low + (at + 1) * width)}: ${count.toLocaleString("en")}`));
    picture.append(bin);
  });
  if (low < 0 && high > 0) {
    const x = counts.length * -low / (high - low);
    picture.append(drawn("line", {class: "zero", x1: x, x2: x, y1: 0, y2: 40,
      "vector-effect": "non-scaling-stroke"}));
  }
  const middle = low < 0 && high > 0 && low === -high ? "0" : "";
  const card = make(spec.of ? "button" : "div", {className: "histogram", title: clipped(title)},
    make("b", {}, ...named(title)), picture,
    make("div", {className: "axis"}, make("span", {}, short(low)), make("span", {}, middle),
      make("span", {}, short(high))),
    make("p", {}, text));
  if (spec.of) {
    card.type = "button";
    card.addEventListener("click", () => shown[spec.of].show(row));
  }
  return card;
}
