// ---- strip: a bar per layer, in the order of the model ---------------------------------------------
// What has no number is never drawn as the smallest: ∞ and what is not finite fill the height, hatched.
DRAW.strip = spec => {
  const strip = make("div", {className: "strip", role: "group", "aria-label": spec.title});
  const tip = make("div", {className: "tip", "aria-live": "polite"});
  const legend = make("span", {className: "legend"}, "1e-8");
  for (let step = 1; step <= 6; step++) {
    const part = make("i");
    part.style.background = `var(--c${step})`;
    legend.append(part);
  }
  legend.append("1 relative change");
  const odd = spec.layers.some(layer => layer.change === "Infinity" || layer.nonfinite);
  if (odd) legend.append(make("i", {className: "key endless"}), "∞ or not finite");
  const node = section(spec, make("p", {className: "dim"}, spec.order), strip, tip);
  node.firstChild.append(legend);
  const table = () => shown[spec.of];
  const describe = layer => `${clipped(layer.name) || "(root)"} · ${layer.different} of ` +
    `${counted(layer.count, "tensor")} differ` +
    (layer.change === null ? "" : ` · relative change ${short(layer.change)}` +
      (layer.change === "Infinity" ? " (it was all zeros)" : "")) +
    (layer.nonfinite ? ` · ${counted(layer.nonfinite, "value")} not finite on one side` : "") +
    (layer.special ? ` · ${layer.special}` : "") +
    (layer.rest ? " · no weight among them" : "");
  const cells = spec.layers.map(layer => {
    const cell = make("button", {type: "button", title: describe(layer),
      "aria-label": describe(layer), "aria-pressed": "false"});
    const endless = (layer.change === "Infinity" && !layer.rest) || layer.nonfinite;
    cell.dataset.layer = layer.name;
    if (endless) cell.classList.add("endless");
    cell.style.setProperty("--fill", layer.special ? `var(--${layer.special})`
      : heat(number(layer.change)));
    // slots and counters change by their nature
    cell.style.setProperty("--h", layer.rest && !layer.nonfinite ? "20%"
      : endless || layer.special ? "100%"
      : layer.change > 0 ? `${14 + 86 * share(layer.change)}%` : "6%");
    if (layer.special) cell.classList.add("special");
    const tell = () => { tip.textContent = describe(layer); };
    cell.addEventListener("mouseenter", tell);
    cell.addEventListener("focus", tell);
    cell.addEventListener("click", () => {
      const now = table().by.get("layer").only;
      table().only("layer", now === layer.name ? null : layer.name);
    });
    strip.append(cell);
    return cell;
  });
  const rest = () => {
    const now = shown[spec.of] && table().by.get("layer").only;
    const layer = spec.layers.find(each => each.name === now);
    tip.textContent = layer ? describe(layer)
      : `${counted(spec.layers.length, "layer")}; choose one to see its tensors alone`;
    for (const cell of cells) cell.setAttribute("aria-pressed", String(cell.dataset.layer === now));
  };
  strip.addEventListener("mouseleave", rest);
  strip.classList.toggle("many", spec.layers.length > 150);
  node.hidden = spec.layers.length < 2;
  onReady.push(() => {
    roving(strip, "button");
    table().onChange = rest;
    rest();
  });
  return node;
};

// ---- what changed most, in words, so that nobody has to find it --------------------------------------
DRAW.callouts = spec => {
  const list = make("div", {className: "grid"});
  const node = section(spec, list);
  if (spec.about) node.firstChild.append(make("span", {className: "dim"}, spec.about));
  for (const {title, value, text, row, severe} of spec.callouts) {
    const card = make("button", {type: "button", className: `callout${severe ? " severe" : ""}`},
      make("b", {}, ...named(title)), make("strong", {}, value), make("span", {}, text));
    card.addEventListener("click", () => shown[spec.of].show(row));
    list.append(card);
  }
  roving(list, "button");
  node.hidden = !spec.callouts.length;
  return node;
};
