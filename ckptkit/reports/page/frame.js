"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);

function make(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties || {})) {
    if (key in node) node[key] = value; else node.setAttribute(key, value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}
const SVG = "http://www.w3.org/2000/svg";
function drawn(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
// numbers that JSON has no way to write are words there
const WORDS = {Infinity: Infinity, "-Infinity": -Infinity, NaN: NaN};
const number = value => typeof value === "string" && value in WORDS ? WORDS[value] : value;
const UNDEFINED = "–";
function short(value) {
  if (value === null || value === undefined) return "";
  value = number(value);
  if (typeof value !== "number") return String(value);
  if (Number.isNaN(value)) return UNDEFINED;
  if (Math.abs(value) === Infinity) return value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(3)))
    : value.toExponential(2).replace("e+", "e");
}
function bytesText(count) {
  if (count < 1000) return `${count} B`;
  let unit = 0;
  for (; count >= 999.5 && unit < 5; unit++) count /= 1000;
  return `${count.toFixed(count < 10 ? 2 : count < 100 ? 1 : 0)} ${["B", "kB", "MB", "GB", "TB",
    "PB"][unit]}`;
}
const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const clipped = (text, most = 160) =>
  text.length > most ? `${text.slice(0, most * 2 / 3)}…${text.slice(-most / 4)}` : text;
// A name whose end stays where there is no room for all of it: names of one model begin alike.
const PATH = /^[^\s()'"]*[/.][^\s()'"]*$/;  // and no call, sentence or list of numbers
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/;
function named(text) {
  text = String(text);
  if (text.length < 24 || !PATH.test(text) || RIGHT_TO_LEFT.test(text)) return [text];
  const last = text.slice(-32), start = last.search(/[/.]/) + 1;
  let at = text.length - (start && start < 22 ? last.length - start : 24);
  // a letter and what is written on it stay together
  while (at && /^[\p{M}\u200d\udc00-\udfff]/u.test(text.slice(at))) at--;
  const front = make("span", {className: "front"}, text.slice(0, at)), end = text.slice(at);
  front.style.maxWidth = `max(0px, 100% - ${end.length + 3}ch)`;
  return [front, end];
}
function paint(node, status) {
  node.style.setProperty("--of", `var(--${status})`);
  node.style.setProperty("--bg-of", `var(--${status}-bg)`);
  return node;
}

// ---- the address: what is filtered, sorted, open ---------------------------------------------
const address = {
  get: key => new URLSearchParams(location.hash.slice(1)).get(key),
  set(key, value) {
    const now = new URLSearchParams(location.hash.slice(1));
    if (value === null || value === undefined || value === "") now.delete(key);
    else now.set(key, value);
    const text = String(now);
    // a page inside of another has no address of its own
    try { history.replaceState(null, "", text ? `#${text}` : location.href.split("#")[0]); }
    catch { return; }
  },
};
const onAddress = [];  // what to do when a person changes it, or goes back
window.addEventListener("hashchange", () => { for (const act of onAddress) act(); });

// ---- keyboard: a group is one stop, arrows move within -----------------------------------------
const STEPS = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1};
function roving(box, selector) {
  const items = () => [...box.querySelectorAll(selector)].filter(item => item.offsetParent);
  const choose = item => {
    for (const each of box.querySelectorAll(selector)) each.tabIndex = each === item ? 0 : -1;
  };
  box.addEventListener("focusin", event => {
    const item = event.target.closest(selector);
    if (item) choose(item);
  });
  box.addEventListener("keydown", event => {
    const all = items(), at = all.indexOf(event.target.closest(selector));
    if (at < 0) return;
    const to = event.key === "Home" ? 0 : event.key === "End" ? all.length - 1
      : event.key in STEPS ? at + STEPS[event.key] : -1;
    if (to < 0 || to >= all.length) return;
    event.preventDefault();
    all[to].focus();
  });
  const refresh = () => {
    const all = [...box.querySelectorAll(selector)];
    choose(all.find(item => item.tabIndex === 0 && item.getAttribute("tabindex") === "0")
      || all[0]);
  };
  refresh();
  return refresh;
}

// ---- sections ----------------------------------------------------------------------------------
const DRAW = {};  // kind of a section -> function that makes it
const shown = {};  // id of a section -> what it offers to others
function section(spec, ...children) {
  return make("section", {id: spec.id, "aria-label": spec.title},
    make("div", {className: "head"}, make("h2", {}, spec.title)), ...children);
}
DRAW.lines = spec => {
  const list = make("ul", {className: "lines"});
  for (const line of spec.lines) list.append(make("li", {}, line));
  return section(spec, list);
};
DRAW.facts = spec => {
  const list = make("dl");
  for (const [title, text] of spec.facts)
    list.append(make("div", {className: String(text).length > 40 ? "wide" : ""},
      make("dt", {}, title), make("dd", {}, String(text))));
  return section(spec, list);
};
function begin() {
  for (const file of data.files || [])
    $("files").append(make("div", {className: `file ${file.side || ""}`},
      file.side ? make("span", {className: "side"}, file.side.toUpperCase()) : null,
      make("b", {}, file.path), make("p", {}, file.about)));
  if (data.verdict) {
    $("verdict").hidden = false;
    $("verdict").classList.add(data.tone);
    $("verdict").append(data.verdict, ...(data.summary || []).map(line => make("span", {}, line)));
  }
  for (const [severity, text] of data.notes || [])
    $("notes").append(make("li", {className: severity}, text));
  $("footer").textContent = data.footer;
  for (const spec of data.sections || []) $("content").append(DRAW[spec.kind](spec));
  for (const act of onReady) act();
}
const onReady = [];  // what needs sizes, so that the sections have to be there
$("skip").addEventListener("click", event => {
  event.preventDefault();
  const row = document.querySelector("#content [data-row] button, #content canvas");
  (row || $("content")).focus();
});

// ---- light and dark ----------------------------------------------------------------------------
const dark = matchMedia("(prefers-color-scheme: dark)");
const forced = matchMedia("(forced-colors:active)");  // where the system chooses all colours
const onTheme = [];  // what draws with colours of its own
function theme() {
  const chosen = forced.matches ? null : address.get("theme");
  document.documentElement.dataset.theme = printing ? "light"
    : ["light", "dark"].includes(chosen) ? chosen : dark.matches ? "dark" : "light";
  for (const act of onTheme) act();
}
// what is drawn is drawn in the colours of paper, and tables have more than a window shows
const onPrint = [];
let printing = false;
function onPaper(on) {
  printing = on;
  document.documentElement.classList.toggle("paper", on);
  theme();
  for (const act of onPrint) act();
}
window.addEventListener("beforeprint", () => onPaper(true));
window.addEventListener("afterprint", () => onPaper(false));
for (const media of [dark, forced]) media.addEventListener("change", theme);
onAddress.push(theme);
$("theme").addEventListener("click", () => {
  const to = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  address.set("theme", to === (dark.matches ? "dark" : "light") ? "" : to);
  document.documentElement.dataset.theme = to;
  for (const act of onTheme) act();
});
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
