"""The page of every command, in a real browser: usable by keyboard, safe, silent, and readable."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit.cli.report_options import OFFERS
from ckptkit.reports import map as map_report
from ckptkit.reports.page import frame
from ckptkit.reports.page.sections import column, table
from support.browser import DOWN, ENTER, TAB, Page, browser, missing
from support.pages import MARKUP, NAMES, command_of, write_pages
from support.weights import write_bundle

AXE = "axe-core@4.10.3"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a page of every kind; names of tensors are hostile where a file can have them."""
    return write_pages(tmp_path_factory.mktemp("pages"))


def test_every_command_that_has_a_page_is_here() -> None:
    offered = {command for command, offer in OFFERS.items() if "html" in offer.formats}
    assert {command_of(name) for name in NAMES} == offered


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    reason = missing()
    if reason:
        pytest.skip(reason)
    with browser() as page:
        yield page


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the script that looks for what people with disabilities could not use."""
    folder = tmp_path_factory.mktemp("axe")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm found, which fetches axe-core")
    try:
        done = subprocess.run(
            [npm, "pack", AXE, "--silent"],
            cwd=folder,
            timeout=120,
            check=False,
            capture_output=True,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("axe-core did not come from the registry of npm within two minutes")
    packed = next(folder.glob("*.tgz"), None)
    if done.returncode or packed is None:
        pytest.skip("the registry of npm, which has axe-core, cannot be reached")
    with tarfile.open(packed) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_the_page_itself(name: str, tab: Page, pages: dict[str, Path]) -> None:
    """Nothing is fetched, nothing refused; names are shown and do nothing else."""
    tab.open(pages[name])
    assert tab.js("return performance.getEntriesByType('resource').length") == 0
    assert tab.js("return document.querySelectorAll('img').length") == 0
    assert tab.js("return document.title").endswith(f"ckptkit {command_of(name)}")
    shown = str(tab.js("return document.body.innerText"))
    assert "\u202e" not in shown and "\u2066" not in shown
    assert tab.console() == []


@pytest.mark.parametrize("name", NAMES)
def test_keys_come_to_the_rows(name: str, tab: Page, pages: dict[str, Path]) -> None:
    """The first stop leads past all others, of which there are few before the first row."""
    tab.open(pages[name])
    rows = "#content [data-row] button, #content canvas"
    there = "const at = document.activeElement; return at.matches(arguments[0])"
    tab.press(TAB)
    assert tab.js("return document.activeElement.id") == "skip"
    tab.press(ENTER)
    if tab.js("return Boolean(document.querySelector(arguments[0]))", rows):
        assert tab.js("return document.activeElement !== document.body")
    tab.js("document.activeElement.blur(); window.scrollTo(0, 0)")
    tab.open(pages[name])
    stops = 0
    while not tab.js(there, rows):
        tab.press(TAB)
        stops += 1
        assert stops < 15
    assert tab.console() == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_nobody_is_shut_out(name: str, tab: Page, pages: dict[str, Path], axe: str) -> None:
    tab.open(pages[name])
    tab.js("document.querySelector('[data-row] button')?.click()")
    tab.js(axe)
    for theme in ("light", "dark"):
        tab.js("document.documentElement.dataset.theme = arguments[0]", theme)
        # what does not hang on colours is the same in the other theme
        rules = "" if theme == "light" else "{runOnly: ['color-contrast']}"
        tab.js(
            "window.found = null;"
            f"axe.run({rules}).then(result => {{ window.found = result.violations; }})"
        )
        tab.wait("return window.found !== null")
        serious = tab.js(
            "return found.filter(v => ['serious', 'critical'].includes(v.impact))"
            ".map(v => [v.id, v.nodes[0].html.slice(0, 200)])"
        )
        assert serious == []


@pytest.mark.parametrize("name", NAMES)
def test_narrow(name: str, tab: Page, pages: dict[str, Path]) -> None:
    """A window of 420 pixels does not scroll sideways."""
    tab.resize(420, 900)
    try:
        tab.open(pages[name])
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert tab.js(wide) <= 0
    finally:
        tab.resize(1400, 1600)


PAINTED = """return [...document.querySelectorAll(arguments[0])].filter(node => {
    const fill = getComputedStyle(node, arguments[1]).backgroundColor;
    return fill !== getComputedStyle(document.body).backgroundColor && !/, 0\\)$/.test(fill);
}).length"""


def test_what_is_drawn_is_there_in_colours_of_the_system(tab: Page, pages: dict[str, Path]) -> None:
    """Forced colours take away backgrounds, and with them bars and boxes that are nothing else."""
    tab.media(forced_colors="active")
    try:
        tab.open(pages["diff"])
        bars = tab.js("return document.querySelectorAll('.strip button').length")
        assert bars > 9 and tab.js(PAINTED, ".strip button", "::after") == bars
        assert tab.js(PAINTED, ".meter i", None) > 9
        tab.open(pages["ls"])
        boxes = tab.js("return document.querySelectorAll('.treemap i.cell').length")
        assert boxes > 9 and tab.js(PAINTED, ".treemap i.cell", None) == boxes
    finally:
        tab.media()


def test_on_paper_there_are_all_rows_in_colours_of_paper(tab: Page, tmp_path: Path) -> None:
    names = ["long" * 2500, *(f"tensor_{at}" for at in range(1, 1500))]
    page = frame.Page("ls", "", sections=[table("tensors", "", [column("name", "name", names)])])
    file = tmp_path / "paper.html"
    file.write_text("\n".join(frame.lines(page)), "utf-8")
    tab.open(file)
    tab.js("location.hash = 'theme=dark'; dispatchEvent(new Event('beforeprint'))")
    tab.media("print")
    try:
        assert tab.js("return document.documentElement.dataset.theme") == "light"
        assert tab.js("return document.querySelectorAll('tr.row').length") == 1000
        assert tab.js("return document.querySelector('tr.row').clientHeight") < 300
        assert "first 1,000" in tab.js(
            "return getComputedStyle(document.querySelector('.told'), '::after').content"
        )
    finally:
        tab.media()
    tab.js("dispatchEvent(new Event('afterprint'))")
    assert tab.js("return document.documentElement.dataset.theme") == "dark"
    assert tab.js("return document.querySelectorAll('tr.row').length") < 60
    assert tab.console() == []


def test_what_is_wrong_is_told_at_the_top(tab: Page, pages: dict[str, Path]) -> None:
    """The first screen names what is wrong, and where."""
    told = {
        "ls": ("1 tensor holds NaN or infinite values: deep/kernel",),
        "record": ("output scores: 6 of 6 values NaN or infinite",),
        "doctor": ("another package is called ckptkit", "models can be run on: CPU:0"),
        "upgrade-several": ("1 refused", "export: a SavedModel without"),
    }
    for name, texts in told.items():
        tab.open(pages[name])
        head = str(tab.js("return document.querySelector('header').innerText"))
        assert all(text in head for text in texts), (name, head)
    tab.open(pages["record"])
    cells = tab.texts("#outputs tr.row:last-child td.n")
    assert cells == ["1.00e-7", "–", "–", "–", "6"]
    tab.open(pages["check-audit"])
    assert tab.texts("#faults .chip") == ["passes unseen 1", "blind 1", "seen 1"]


def test_a_long_name_keeps_its_end(tab: Page, tmp_path: Path) -> None:
    """Names of one model begin alike; where there is no room, it is the front that makes way."""
    front = "classifier/backbone_with_a_long_name/encoder"
    names = [f"{front}/layer_{at}/attention/query/kernel" for at in range(9)]
    hebrew = f"{front}/\u05d0\u05d1/layer_3/kernel"
    page = frame.Page(
        "ls",
        "",
        sections=[table("tensors", "", [column("name", "name", [*names, hebrew], "name")])],
    )
    file = tmp_path / "names.html"
    file.write_text("\n".join(frame.lines(page)), "utf-8")
    tab.resize(420, 900)
    try:
        tab.open(file)
        assert tab.texts("tr.row button") == [*names, hebrew]
        cut = "return [...document.querySelectorAll('.front')].map(e => [e.textContent, {}])"
        fronts = tab.js(cut.format("e.scrollWidth > e.clientWidth"))
        assert fronts == [[f"{front}/", True]] * 9
        end = "const all = document.querySelector('tr.row button'), of = document.createRange();"
        end += "of.selectNodeContents(all.lastChild);"
        end += "return of.getBoundingClientRect().right <= all.getBoundingClientRect().right"
        assert tab.js(end)
        copied = "getSelection().selectAllChildren(document.querySelector('tr.row td'));"
        assert tab.js(f"{copied} return String(getSelection()).trim()") == names[0]
    finally:
        tab.resize(1400, 1600)


class _WithoutScript(HTMLParser):
    """What stands in `noscript`, and the names of all tags on the page."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = False
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.inside = self.inside or tag == "noscript"
        if self.inside:
            self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "noscript"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.text += data


@pytest.mark.parametrize("name", NAMES)
def test_without_script_there_is_a_table(name: str, pages: dict[str, Path]) -> None:
    parser = _WithoutScript()
    text = pages[name].read_text("utf-8")
    parser.feed(text)
    assert {"table", "pre"} & {*parser.tags} or "<table>" in text.partition("<noscript>")[0]
    assert "img" not in parser.tags
    if name in ("ls", "diff"):
        assert MARKUP in parser.text and "layer_3/kernel" in parser.text


def test_of_100_000_rows_only_those_in_sight_are_there(tab: Page, tmp_path: Path) -> None:
    names = [f"block_{at // 10}/tensor_{at}" for at in range(100_000)]
    columns = [
        column("name", "name", names, "name"),
        column("dtype", "dtype", ["float32"] * len(names), facet="select"),
        column("bytes", "bytes", list(range(len(names))), "bytes"),
    ]
    page = frame.Page("ls", "many", sections=[table("tensors", "Tensors", columns, "tensor")])
    file = tmp_path / "many.html"
    file.write_text("\n".join(frame.lines(page)), "utf-8")
    tab.open(file)
    count = "return document.querySelectorAll('tr.row').length"
    first = "return document.querySelector('tr.row').dataset.name"
    assert 20 < tab.js(count) < 60
    tab.click("th[data-key=bytes] button")
    assert tab.js(first) == names[-1]
    tab.js("document.querySelector('tr.row button').focus()")
    tab.press("\ue010")  # End
    assert tab.js("return document.activeElement.closest('tr').dataset.name") == names[0]
    tab.press(ENTER)
    assert len(tab.texts("tr.more")) == 1
    tab.press(DOWN)
    tab.type("#tensors .search", "tensor_99999")
    assert tab.js(count) == 1 and tab.js(first) == names[-1]
    assert tab.console() == []


def test_a_box_of_the_treemap_opens_and_leads_to_its_tensor(
    tab: Page, pages: dict[str, Path]
) -> None:
    tab.open(pages["ls"])
    tab.js("document.querySelector('.treemap button[aria-label^=\"layer_0/\"]').click()")
    assert "in=layer_0" in tab.js("return decodeURIComponent(location.hash)")
    tab.js("document.querySelector('.treemap button[aria-label*=\"kernel\"]').click()")
    assert tab.js("return document.querySelector('tr.row [aria-expanded=true]').textContent") in (
        *("layer_0/kernel", "layer_0/kernel@m", "layer_0/kernel@Adam"),
    )
    tab.js("location.hash = ''")
    tab.wait("return document.querySelectorAll('.trail button').length === 1")
    assert tab.console() == []


def test_the_layer_to_blame_is_drawn_and_named(tab: Page, pages: dict[str, Path]) -> None:
    tab.open(pages["check"])
    assert tab.texts("#where li")[0].startswith("look at: norm")
    (tip,) = tab.texts("#depth .tip")
    assert tip.startswith("3 of 4 · norm") and tip.endswith("look at this one")
    tab.js("document.querySelector('#depth canvas').focus()")
    tab.press("\ue014")  # right
    (tip,) = tab.texts("#depth .tip")
    assert tip.startswith("4 of 4 · head") and "look at" not in tip
    tab.press(ENTER)
    assert tab.texts("#values tr.row [aria-expanded=true]") == ["head"]


def test_a_heat_map_tells_values_by_key(tab: Page, pages: dict[str, Path]) -> None:
    tab.open(pages["show"])
    canvas = "document.querySelector('#tensor-0-heat canvas')"
    tab.js(f"{canvas}.focus()")
    for _ in range(1):
        tab.press(DOWN)
    tab.press("\ue014")
    assert tab.texts("#tensor-0-heat .tip")[0] == "[0,0,2,1] = NaN"


def test_what_stands_in_the_way_of_a_release_comes_first(tab: Page, pages: dict[str, Path]) -> None:
    tab.open(pages["gate"])
    assert tab.texts("#failing .callout b") == ["model.max-parameters", "golden"]
    assert tab.texts("#failing .callout strong") == ["fails", "not told"]
    assert tab.texts("#rules .row .status") == ["fails", "not told", "passes"]
    tab.click("#failing .callout")
    assert tab.texts("#rules tr.row [aria-expanded=true]") == ["99 parameters, at most 3"]
    assert "ckptkit ls" in tab.texts("#rules tr.more")[0]


def test_what_a_person_has_to_decide_comes_first(tmp_path: Path) -> None:
    """A tensor with two candidates: a card, and a row for each with the rule that would take it."""
    one, two = np.arange(12, dtype="f4").reshape(3, 4), np.ones((3, 4), "f4")
    src = write_bundle(tmp_path / "src", {"left/table": one, "right/table": two})
    dst = write_bundle(tmp_path / "dst", {"p": one, "q": two})
    proposal = ckptkit.map(src, dst)
    made = map_report.page(proposal)
    assert made.tone == "bad" and made.sections[0]["id"] == "undecided"
    shown, candidates = made.sections[:2]
    assert [card["title"] for card in shown["callouts"]] == [item.target for item in proposal.open]
    assert candidates["count"] == sum(len(item.candidates) for item in proposal.open) > 1
    text = proposal._repr_html_()
    assert all(rule.source in text for item in proposal.open for rule in item.candidates)
