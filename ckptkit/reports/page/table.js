// ---- table: only the rows in sight are in the page, so that 100,000 are as quick as ten ----------
const ROW = 31, HIGH = 760;  // pixels: of a row, of the largest window on the rows (table.css)
const SPARE = 12;  // rows kept above and below those in sight
const NUMERIC = new Set(["count", "number", "bytes", "meter"]);
const PRINTED = 1000;  // rows on paper
const narrow = matchMedia("(max-width:640px)");
const collator = new Intl.Collator("en", {numeric: true});

DRAW.table = spec => new Table(spec).node;
class Table {
  constructor(spec) {
    this.spec = spec;
    this.noun = spec.noun || "row";
    this.columns = spec.columns.map(column => ({...column, numeric: NUMERIC.has(column.kind)}));
    this.by = new Map(this.columns.map(column => [column.key, column]));
    this.count = spec.count;
    this.seen = this.columns.filter(column => !column.hidden);
    this.named = this.columns.find(column => column.kind === "name") || this.seen[0];
    this.order = Array.from({length: this.count}, (_, at) => at);
    this.found = this.order;
    this.prefix = spec.main ? "" : `${spec.id}.`;
    shown[spec.id] = this;
    this.node = this.build();
    this.restore();
    this.render();
    onAddress.push(() => { this.restore(); this.render(); });
    onReady.push(() => this.paint());
  }

  value(column, row) {
    return column.words ? column.words[column.at[row]] : column.cells[row];
  }

  // -- what is asked for, which is in the address, too --
  restore() {
    const read = key => address.get(this.prefix + key);
    const [sort, way] = (read("sort") || "").split(":");
    this.sort = this.by.has(sort) ? sort : "";
    this.down = way === "down";
    this.search.value = read("q") || "";
    this.open = null;
    const wanted = read("open");
    if (wanted !== null)
      for (let row = 0; row < this.count; row++)
        if (this.value(this.named, row) === wanted) { this.open = row; break; }
    for (const column of this.columns) {
      if (!column.facet) continue;
      const text = read(column.key);
      if (column.facet === "chips")
        column.on = new Set(text === null ? this.initial(column) : text.split(",").filter(Boolean));
      else column.only = text;
      if (column.select) column.select.value = text === null ? "" : text;
    }
  }
  initial(column) { return column.values.filter(value => !(column.off || []).includes(value)); }
  save() {
    const write = (key, value) => address.set(this.prefix + key, value);
    write("sort", this.sort && this.sort + (this.down ? ":down" : ""));
    write("q", this.search.value);
    write("open", this.open === null ? null : this.value(this.named, this.open));
    for (const column of this.columns) {
      if (column.facet === "chips") {
        const usual = this.initial(column);
        const same = usual.length === column.on.size && usual.every(value => column.on.has(value));
        write(column.key, same ? null : [...column.on].join(",") || ",");
      } else if (column.facet) write(column.key, column.only);
    }
  }
  change(fresh = true) {
    if (fresh) { this.box.scrollTop = 0; this.active = 0; }
    this.save();
    this.render();
  }
  // other pictures call this: `key` is a column, null shows all again
  only(key, value) { this.by.get(key).only = value; this.change(); }
  starts(text) { this.search.value = text; this.change(); }
  show(row) {
    for (const column of this.columns)
      if (column.facet === "chips") column.on.add(String(this.value(column, row)));
      else if (column.facet) column.only = null;
    this.search.value = "";
    for (const column of this.columns) if (column.select) column.select.value = "";
    this.open = row;
    this.save();
    this.render();
    this.go(this.found.indexOf(row));
    this.node.scrollIntoView({block: "nearest"});
  }

  // -- what there is to see --
  text(row) {
    this.texts ||= [];
    return this.texts[row] ||= this.columns
      .filter(column => !column.numeric && (!column.hidden || column.searched))
      .map(column => this.value(column, row) ?? "").join(" ").toLowerCase();
  }
  passes(row, words) {
    for (const column of this.columns) {
      if (column.facet === "chips") {
        if (!column.on.has(String(this.value(column, row)))) return false;
      } else if (column.facet && column.only !== null && column.only !== undefined
        && String(this.value(column, row)) !== column.only) return false;
    }
    return words.every(word => this.text(row).includes(word));
  }
  filter() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    this.found = this.order.filter(row => this.passes(row, words));
    const column = this.by.get(this.sort);
    if (!column) return;
    const by = this.by.get(column.by) || column;
    const ranks = by.words && by.order ? by.words.map(word => by.order.indexOf(word)) : null;
    const values = this.found.map(row =>
      ranks ? ranks[by.at[row]] : number(this.value(by, row)));
    const empty = value => value === null || value === undefined || Number.isNaN(value);
    const order = Array.from(values, (_, at) => at).sort((one, two) => {
      const a = values[one], b = values[two];
      if (empty(a) || empty(b)) return empty(a) - empty(b) || one - two;
      const way = typeof a === "number" ? (a < b ? -1 : a > b ? 1 : 0) : collator.compare(a, b);
      return (this.down ? -way : way) || one - two;
    });
    this.found = order.map(at => this.found[at]);
  }
  render() {
    this.filter();
    if (this.open !== null && !this.found.includes(this.open)) this.open = null;
    const all = this.count.toLocaleString("en");
    const here = this.found.length.toLocaleString("en");
    this.told.textContent = this.found.length === this.count ? counted(this.count, this.noun)
      : `${here} of ${all} ${this.noun}s`;
    const asked = this.columns.filter(column => column.only !== null && column.only !== undefined);
    this.clear.hidden = !(this.search.value || asked.length);
    this.clear.textContent = asked.filter(column => column.facet === "link")
      .map(column => `${column.title}: ${clipped(column.only, 60)} ✕`)[0] || "clear filters";
    for (const head of this.heads) {
      if (head.dataset.key === this.sort)
        head.setAttribute("aria-sort", this.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    for (const chip of this.chips.children)
      chip.setAttribute("aria-pressed",
        String(this.by.get(chip.dataset.of).on.has(chip.dataset.value)));
    this.active = Math.max(0, Math.min(this.active || 0, this.found.length - 1));
    this.empty.hidden = this.found.length > 0;
    this.paint();
    if (this.onChange) this.onChange();
  }

  // -- rows in sight --
  paint() {
    const at = this.open === null ? -1 : this.found.indexOf(this.open);
    const extra = at < 0 ? 0 : this.extra || 0;
    const high = HIGH, top = this.box.scrollTop;  // the box is low where it held few rows
    const row = y => Math.floor((at >= 0 && y > (at + 1) * ROW
      ? Math.max((at + 1) * ROW, y - extra) : y) / ROW);
    const first = printing ? 0 : Math.max(0, row(top) - SPARE);
    const last = Math.min(this.found.length, printing ? PRINTED : row(top + high) + SPARE);
    const held = this.body.contains(document.activeElement)
      && document.activeElement.closest("[data-row]");
    const lines = [];
    for (let index = first; index < last; index++) {
      lines.push(this.line(index));
      if (index === at) lines.push(this.details(this.open));
    }
    const space = height => make("tr", {className: "space", "aria-hidden": "true"},
      make("td", {colSpan: this.across(), style: `height:${height}px`}));
    const above = first * ROW + (at >= 0 && at < first ? extra : 0);
    const below = printing ? 0 : (this.found.length - last) * ROW + (at >= last ? extra : 0);
    const left = printing ? this.found.length - last : 0;
    this.told.dataset.left = left ? `; the first ${PRINTED.toLocaleString("en")} are printed` : "";
    this.body.replaceChildren(...(above ? [space(above)] : []), ...lines,
      ...(below ? [space(below)] : []));
    this.table.setAttribute("aria-rowcount", String(this.found.length + 1));
    const more = this.body.querySelector("tr.more");
    if (more) this.extra = more.offsetHeight;
    if (held) this.button(this.active)?.focus({preventScroll: true});
  }
  button(index) { return this.body.querySelector(`[data-row="${index}"] button`); }
  line(index) {
    const row = this.found[index];
    const line = make("tr", {className: "row", "aria-rowindex": String(index + 2)});
    line.dataset.row = index;
    line.dataset.name = this.value(this.named, row);
    for (const column of this.seen) line.append(this.cell(column, row, index));
    return line;
  }
  cell(column, row, index) {
    const value = this.value(column, row);
    const kind = column.numeric ? "n" : column.kind === "status" ? "" : column.kind;
    const cell = make("td", {className: `${kind}${column.minor ? " minor" : ""}`});
    if (column === this.named) {
      const button = make("button", {type: "button", className: "open",
        tabIndex: index === this.active ? 0 : -1, title: clipped(String(value), 400)},
        ...written(value));
      button.setAttribute("aria-expanded", String(row === this.open));
      cell.append(button);
    } else if (value === null || value === undefined) return cell;
    else if (column.kind === "status")
      cell.append(paint(make("span", {className: "status"}, value), value.replace(/\W/g, "-")));
    else if (column.kind === "bytes") cell.append(bytesText(value));
    else if (column.kind === "meter") cell.append(short(value), this.meter(number(value)));
    else if (column.numeric) cell.append(short(value));
    else {
      cell.title = clipped(String(value), 400);
      cell.append(...(column.kind === "mono" ? written(value) : [text(value)]));
    }
    if (column.numeric && Number.isNaN(number(value))) cell.title = "undefined";
    return cell;
  }
  meter(value) {
    const bar = make("i");
    bar.style.width = `${100 * share(value)}%`;
    bar.style.background = heat(value);
    return make("span", {className: "meter"}, bar);
  }
  details(row) {
    const list = make("dl");
    for (const column of this.columns) {
      const value = this.value(column, row);
      if (value === null || value === undefined || value === "") continue;
      const text = column.kind === "bytes" ? bytesText(value)
        : column.numeric ? short(value) : String(value);
      // what is long scrolls, so that the keyboard has to get there; a dd takes no role in its list
      const field = make("dd", {}, text.length > 600
        ? make("div", {tabIndex: 0, role: "group", "aria-label": column.title}, text)
        : text === UNDEFINED ? "undefined" : text);
      list.append(make("div", {className: text.length > 28 ? "wide" : ""},
        make("dt", {}, column.title), field));
    }
    return make("tr", {className: "more"}, make("td", {colSpan: this.across()},
      make("div", {className: "fields"}, list)));
  }
  across() {  // more would make columns of their own
    return narrow.matches ? this.seen.filter(column => !column.minor).length : this.seen.length;
  }
  toggle(index) {
    const row = this.found[index];
    this.open = this.open === row ? null : row;
    this.extra = 0;
    this.active = index;
    this.save();
    this.paint();
    this.paint();  // with the height of what was opened
    this.button(index)?.focus({preventScroll: true});
  }
  go(index) {
    if (index < 0 || !this.found.length) return;
    this.active = Math.min(index, this.found.length - 1);
    const at = this.open === null ? -1 : this.found.indexOf(this.open);
    const top = this.active * ROW + (at >= 0 && at < this.active ? this.extra || 0 : 0);
    const high = this.box.clientHeight - this.head.offsetHeight - ROW;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top > this.box.scrollTop + high) this.box.scrollTop = top - high;
    this.paint();
    this.button(this.active)?.focus({preventScroll: true});
  }

  // -- the parts --
  build() {
    this.search = make("input", {type: "search", placeholder: `filter ${this.noun}s …`,
      "aria-label": `filter ${this.noun}s`, spellcheck: false, autocomplete: "off",
      className: "search"});
    this.search.addEventListener("input", () => this.change());
    this.chips = make("div", {className: "chips", role: "group", "aria-label": "show"});
    this.told = make("span", {className: "dim told", role: "status"});
    this.clear = make("button", {type: "button", className: "clear", hidden: true});
    this.clear.addEventListener("click", () => {
      this.search.value = "";
      for (const column of this.columns)
        if (column.facet && column.facet !== "chips") column.only = null;
      for (const column of this.columns) if (column.select) column.select.value = "";
      this.change();
      this.search.focus();
    });
    const selects = [];
    for (const column of this.columns) {
      if (!column.facet || column.facet === "link") continue;
      const counts = new Map();
      for (const row of this.order) {
        const value = String(this.value(column, row));
        counts.set(value, (counts.get(value) || 0) + 1);
      }
      column.values = [...counts.keys()];
      if (column.order) column.values.sort((a, b) =>
        column.order.indexOf(a) - column.order.indexOf(b));
      if (column.facet === "chips") this.addChips(column, counts);
      else if (counts.size > 1) selects.push(this.addSelect(column, counts));
    }
    roving(this.chips, "button");
    const heads = make("tr");
    for (const column of this.seen) heads.append(this.heading(column));
    this.heads = [...heads.children];
    roving(heads, "button");
    this.head = make("thead", {}, heads);
    this.body = make("tbody");
    this.widths = {always: 0, minor: 0, narrow: 0};
    this.table = make("table", {className: "rows"}, make("caption", {}, this.spec.title),
      make("colgroup", {}, ...this.seen.map(column => this.width(column))), this.head, this.body);
    const widths = this.widths;  // beside the name, which gets no less than the rest
    this.table.style.setProperty("--wide", `${widths.always + widths.minor + 240}px`);
    this.table.style.setProperty("--narrow", `${widths.narrow + 180}px`);
    this.empty = make("p", {className: "dim"}, `no ${this.noun} fits the filter`);
    this.box = make("div", {className: "scroll"}, this.table, this.empty);
    this.listen();
    const small = this.count < 8;
    const controls = make("div", {className: "head controls"}, make("h2", {}, this.spec.title),
      this.search, this.chips, ...selects, this.told, this.clear);
    this.search.hidden = small;
    return make("section", {id: this.spec.id, "aria-label": this.spec.title}, controls, this.box);
  }
  listen() {
    let waiting = false;
    this.box.addEventListener("scroll", () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; this.paint(); });
    });
    window.addEventListener("resize", () => this.paint());
    onPrint.push(() => this.paint());
    this.body.addEventListener("click", event => {
      const line = event.target.closest("[data-row]");
      if (line && !String(getSelection())) this.toggle(Number(line.dataset.row));
    });
    this.body.addEventListener("keydown", event => {
      if (!event.target.closest("[data-row]")) return;
      const page = Math.max(1, Math.floor(this.box.clientHeight / ROW) - 2);
      const to = {ArrowDown: this.active + 1, ArrowUp: this.active - 1, Home: 0,
        End: this.found.length - 1, PageDown: this.active + page, PageUp: this.active - page};
      if (!(event.key in to)) return;
      event.preventDefault();
      this.go(Math.max(0, to[event.key]));
    });
  }
  heading(column) {
    const head = make("th", {scope: "col",
      className: `${column.numeric ? "n" : ""}${column.minor ? " minor" : ""}`});
    head.dataset.key = column.key;
    const button = make("button", {type: "button"}, column.title);
    button.addEventListener("click", () => {
      if (this.sort !== column.key) { this.sort = column.key; this.down = column.numeric; }
      else if (this.down === column.numeric) this.down = !this.down;
      else this.sort = "";
      this.change();
    });
    head.append(button);
    return head;
  }
  width(column) {
    const col = make("col", {className: column.minor ? "minor" : ""});
    if (column === this.named) return col;  // the rest is its own
    let most = 0;
    const step = Math.max(1, Math.floor(this.count / 500));
    for (let row = 0; row < this.count; row += step) {
      const value = this.value(column, row);
      const text = column.kind === "bytes" && value !== null ? bytesText(value)
        : column.numeric ? short(value) : String(value ?? "");
      most = Math.max(most, text.length);
    }
    const more = {meter: 84, status: 24}[column.kind] || 0;
    const around = column.kind === "text" ? 26 : 20;  // letters of text are not all of a width
    // there is room for the arrow of a sorted column; in a narrow window headings are folded
    const pixels = (letters, title, beside) => around +
      Math.max(Math.min(most, letters) * 7.6 + beside, (title + 2) * 7.6);
    const wide = pixels(column.wide || 26, column.title.length, more);
    const small = pixels(20, Math.max(...column.title.split(" ").map(word => word.length)),
      column.kind === "meter" ? 0 : more);
    col.style.setProperty("--w", `${wide}px`);
    col.style.setProperty("--nw", `${small}px`);
    this.widths[column.minor ? "minor" : "always"] += wide;
    if (!column.minor) this.widths.narrow += small;
    return col;
  }
  addChips(column, counts) {
    for (const value of column.values) {
      const chip = paint(make("button", {type: "button", className: "chip"},
        `${value} ${counts.get(value).toLocaleString("en")}`), value.replace(/\W/g, "-"));
      chip.dataset.of = column.key;
      chip.dataset.value = value;
      chip.addEventListener("click", () => {
        if (!column.on.delete(value)) column.on.add(value);
        this.change();
      });
      this.chips.append(chip);
    }
  }
  addSelect(column, counts) {
    const select = make("select", {"aria-label": column.title});
    select.append(make("option", {value: ""}, `any ${column.title}`));
    for (const value of [...column.values].slice(0, 500))
      select.append(make("option", {value},
        `${clipped(value, 60)} (${counts.get(value).toLocaleString("en")})`));
    select.addEventListener("change", () => {
      column.only = select.value || null;
      this.change();
    });
    column.select = select;
    return select;
  }
}

// in a window, what is too long is cut by its cell
const text = value => printing ? clipped(String(value), 240) : String(value);
const written = value => printing ? [text(value)] : named(value);
// a relative change of 1e-8 or less is the lowest step, of 1 or more the highest
const share = change => change > 0 ? Math.min(1, Math.max(0, 1 + Math.log10(change) / 8)) : 0;
const heat = change => change > 0 ? `var(--c${1 + Math.min(5, Math.floor(share(change) * 6))})`
  : "var(--c0)";
