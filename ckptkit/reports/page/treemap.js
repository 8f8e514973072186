// ---- treemap: area is bytes, colour is what it is for --------------------------------------------
const BOXES = 5000;  // of one picture, with all that is in others
const LARGEST = 300;  // boxes side by side; what is left is one box more
// rectangles of areas in a box, as square as they come: Bruls, Huizing, van Wijk, "Squarified
// Treemaps" (2000).  Sizes fall; the result has a rectangle for each.
function squarified(sizes, x, y, w, h) {
  const all = sizes.reduce((sum, size) => sum + size, 0), boxes = [];
  if (!(all > 0)) return sizes.map(() => [x, y, 0, 0]);
  const areas = sizes.map(size => size * w * h / all);
  const worst = (sum, small, large, side) =>
    Math.max(side * side * large / (sum * sum), sum * sum / (side * side * small));
  for (let start = 0; start < areas.length;) {
    const side = Math.min(w, h);
    let end = start + 1, sum = areas[start];
    while (end < areas.length && worst(sum + areas[end], areas[end], areas[start], side)
      <= worst(sum, areas[end - 1], areas[start], side)) sum += areas[end++];
    const thick = side > 0 ? sum / side : 0;
    let along = 0;
    for (let at = start; at < end; at++) {
      const long = thick > 0 ? areas[at] / thick : 0;
      boxes.push(w >= h ? [x, y + along, thick, long] : [x + along, y, long, thick]);
      along += long;
    }
    if (w >= h) { x += thick; w -= thick; } else { y += thick; h -= thick; }
    start = end;
  }
  return boxes;
}

// names as a tree, whose nodes know their bytes and the roles of what is in them
function nested(table, spec) {
  const name = table.by.get(spec.name), bytes = table.by.get(spec.bytes);
  const role = table.by.get(spec.role);
  const root = {name: "", path: "", bytes: 0, count: 0, below: new Map(), roles: new Map()};
  for (let row = 0; row < table.count; row++) {
    const size = table.value(bytes, row), kind = table.value(role, row);
    const parts = table.value(name, row).split("/");
    if (parts.length > 100) parts.splice(100, parts.length, parts.slice(100).join("/"));
    let node = root;
    for (let depth = 0; ; depth++) {
      node.bytes += size;
      node.count += 1;
      node.roles.set(kind, (node.roles.get(kind) || 0) + size);
      if (depth === parts.length) break;
      const last = depth === parts.length - 1, key = parts[depth] + (last ? "" : "/");
      let next = node.below.get(key);
      if (!next) {
        next = {name: key, path: node.path + key, bytes: 0, count: 0, below: new Map(),
          roles: new Map(), row: last ? row : null, above: node};
        node.below.set(key, next);
      }
      node = next;
    }
  }
  return root;
}
// a branch that is alone leads on to what is below it
function falling(node) {
  while (node.below.size === 1 && [...node.below.values()][0].row === null)
    node = [...node.below.values()][0];
  return node;
}

DRAW.treemap = spec => {
  const box = make("div", {className: "treemap", role: "group", "aria-label": spec.title});
  const trail = make("div", {className: "trail"}), legend = make("span", {className: "legend"});
  const tip = make("div", {className: "tip", "aria-live": "polite"});
  const node = section(spec, trail, box, tip);
  const nodes = new WeakMap();  // of the boxes, those in others too
  const under = event => nodes.get(event.target.closest(".cell"));
  box.addEventListener("mouseover", event => {
    const each = under(event);
    if (each) tip.textContent = about(each);
  });
  box.addEventListener("click", event => {
    const each = under(event);
    if (!each || each.rest) return;
    if (each.row !== null) { shown[spec.of].show(each.row); return; }
    step(falling(each));
    box.querySelector("button")?.focus();
  });
  node.firstChild.append(legend);
  let root, here, hues;
  const hue = each => {
    let best = "", most = -1;
    for (const [role, size] of each.roles) if (size > most) { best = role; most = size; }
    return hues.get(best);
  };
  const about = each => `${clipped(each.path || "all")} · ${bytesText(each.bytes)} · ` +
    `${(root.bytes ? 100 * each.bytes / root.bytes : 0).toPrecision(3)}%` +
    (each.row === null || each.row === undefined ? ` · ${counted(each.count, "tensor")}` : "");
  function largest(each) {
    const all = [...each.below.values()].filter(one => one.bytes > 0)
      .sort((a, b) => b.bytes - a.bytes);
    if (all.length <= LARGEST) return all;
    const rest = all.slice(LARGEST), roles = new Map();
    for (const one of rest) for (const [role, size] of one.roles)
      roles.set(role, (roles.get(role) || 0) + size);
    const sum = key => rest.reduce((total, one) => total + one[key], 0);
    return [...all.slice(0, LARGEST), {name: `${counted(rest.length, "other")}`, roles, rest: true,
      path: `${each.path}… ${counted(rest.length, "other")}`, bytes: sum("bytes"),
      count: sum("count"), below: new Map(), row: null}].sort((a, b) => b.bytes - a.bytes);
  }
  function put(each, [x, y, w, h], tag, gap) {
    const cell = make(tag, {className: "cell"});
    cell.style.cssText = `left:${x}px;top:${y}px;width:${Math.max(1, w - gap)}px;` +
      `height:${Math.max(1, h - gap)}px`;
    cell.style.setProperty("--hue", `var(--k${hue(each)})`);
    nodes.set(cell, each);
    return cell;
  }
  // what is in a box, as boxes in it, as deep as there is room
  function fill(cell, one, wide, high, name, depth) {
    const inner = one.below.size ? largest(falling(one)) : [];
    const head = high > 46 && wide > 50 ? 21 : 0;
    const isGroup = inner.length > 1 && wide > 24 && high > 20 + head && depth < 5;
    if (wide > 34 && high > 18 && (head || !isGroup)) {
      const label = make("b", {}, clipped(name, 90));
      if (high > 46 && !isGroup) label.append(make("span", {}, bytesText(one.bytes)));
      cell.append(label);
    }
    if (!isGroup) return;
    cell.classList.add("group");
    cell.style.setProperty("--deep", `${12 + 5 * depth}%`);
    squarified(inner.map(each => each.bytes), 3, 3 + head, wide - 8, high - 8 - head)
      .forEach((place, number) => {
        if (place[2] * place[3] < 30 || boxes > BOXES) return;
        boxes += 1;
        const each = inner[number], small = put(each, place, "i", 1.5);
        fill(small, each, place[2], place[3], each.name, depth + 1);
        cell.append(small);
      });
  }
  let boxes = 0;
  function draw() {
    boxes = 0;
    const w = box.clientWidth, h = box.clientHeight;
    if (!w || !root) return;
    const cells = [];
    const kin = largest(here);
    const places = squarified(kin.map(one => one.bytes), 0, 0, w, h);
    kin.forEach((one, index) => {
      const place = places[index], [, , wide, high] = place;
      const cell = put(one, place, "button", 3);
      cell.type = "button";
      cell.title = about(one);
      cell.setAttribute("aria-label", about(one));
      fill(cell, one, wide, high, one.path.slice(here.path.length), 0);
      const tell = () => { tip.textContent = about(one); };
      cell.addEventListener("focus", tell);
      cells.push(cell);
    });
    box.replaceChildren(...cells);
    refresh();
    tip.textContent = about(here);
  }
  function step(to) {
    here = to;
    const first = here === falling(root);
    address.set("in", first ? null : here.path);
    const way = [];
    for (let each = here; each !== root; each = each.above) way.unshift(each);
    const links = [make("button", {type: "button"}, "all")];
    links[0].addEventListener("click", () => step(falling(root)));
    for (const each of way) {
      const link = make("button", {type: "button"}, clipped(each.name, 40));
      link.addEventListener("click", () => step(falling(each)));
      links.push(make("span", {"aria-hidden": "true"}, "›"), link);
    }
    trail.replaceChildren(...links);
    trail.hidden = first;
    draw();
  }
  let refresh = () => {};
  function restore() {
    const path = address.get("in") || "";
    let at = root;
    for (let next = root; next; at = next, next = [...at.below.values()]
      .find(each => each.row === null && path.startsWith(each.path)));
    step(falling(at));
  }
  onReady.push(() => {
    const of = shown[spec.of];
    root = nested(of, spec);
    const roles = [...root.roles].sort((a, b) =>
      (b[0] === "weight") - (a[0] === "weight") || b[1] - a[1]);
    hues = new Map(roles.map(([role], index) => [role, Math.min(7, index)]));
    for (const [role, size] of roles) {
      const key = make("i", {className: "key"});
      key.style.background = `var(--k${hues.get(role)})`;
      legend.append(key, `${role} ${bytesText(size)}`);
    }
    node.hidden = !root.bytes;
    refresh = roving(box, "button");
    roving(trail, "button");
    restore();
    window.addEventListener("resize", draw);
    onPrint.push(draw);
    onAddress.push(restore);
  });
  return node;
};

// ---- tree: the same names, a branch at a time -----------------------------------------------------
const BRANCHES = 400;  // shown of one branch
DRAW.tree = spec => {
  const list = make("ul", {className: "tree", "aria-label": spec.title});
  const node = section(spec, list);
  const about = each => `${counted(each.count, "tensor")}, ${bytesText(each.bytes)}`;
  function fill(into, each, table) {
    const all = [...each.below.values()].sort((a, b) => collator.compare(a.name, b.name));
    for (const one of all.slice(0, BRANCHES)) into.append(item(one, table));
    if (all.length > BRANCHES) into.append(make("li", {className: "dim"},
      `… and ${counted(all.length - BRANCHES, "more")} (filter the rows above)`));
  }
  function item(one, table) {
    const leaf = one.row !== null;
    const button = make("button", {type: "button"}, make("b", {}, one.name),
      make("span", {}, leaf ? `${table.value(table.by.get("dtype"), one.row)} ` +
        `[${table.value(table.by.get("shape"), one.row)}]` : about(one)));
    const line = make("li", {}, button);
    if (leaf) button.addEventListener("click", () => table.show(one.row));
    else {
      button.setAttribute("aria-expanded", "false");
      let below = null;
      const turn = to => {
        button.setAttribute("aria-expanded", String(to));
        if (to && !below) {
          below = make("ul");
          fill(below, one, table);
          line.append(below);
        }
        if (below) below.hidden = !to;
      };
      const isOpen = () => button.getAttribute("aria-expanded") === "true";
      button.addEventListener("click", () => turn(!isOpen()));
      button.addEventListener("keydown", event => {
        const to = event.key === "ArrowRight" && !isOpen() ? true
          : event.key === "ArrowLeft" && isOpen() ? false : null;
        if (to === null) return;
        event.stopPropagation();
        event.preventDefault();
        turn(to);
      });
    }
    return line;
  }
  onReady.push(() => {
    const table = shown[spec.of];
    fill(list, nested(table, spec), table);
    roving(list, "button");
    node.hidden = !table.count;
  });
  return node;
};
