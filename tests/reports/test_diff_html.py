"""The page of `diff`, in a real browser: it sorts, filters, and asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit.operations.diff.api import DiffResult, diff
from ckptkit.reports.diff import html as diff_html
from support.browser import Page, browser, missing
from support.goldens import GOLDEN
from support.weights import Array, write_bundle

EVIL = "evil</script><img src=x onerror=document.title='broken'>/w"
LAYERS = 12


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> DiffResult:
    """Layers that change by 1e-6 to 1, and one tensor of every other status."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(3)
    old: dict[str, Array] = {
        f"layer_{i}/kernel": rng.standard_normal((20, 30)).astype(np.float32) for i in range(LAYERS)
    }
    new: dict[str, Array] = {
        name: values * (1 + 10 ** (-6 + i / 2) * rng.standard_normal(values.shape)).astype("f4")
        for i, (name, values) in enumerate(old.items())
    }
    same = rng.standard_normal(50).astype(np.float32)
    old |= {EVIL: same, "gone/w": same[:7], "a/w": same[:9], "steps/w": np.zeros(5, np.float32)}
    new |= {EVIL: same, "fresh/w": same[:8], "b/w": same[:9]}
    new["steps/w"] = np.array([0, 1, 0, np.inf, 0], np.float32)
    return diff(write_bundle(folder / "old", old), write_bundle(folder / "new", new))


@pytest.fixture(scope="module")
def file(result: DiffResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "diff.html"
    path.write_text("\n".join(diff_html.lines(result)), "utf-8")
    return path


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    reason = missing()
    if reason:
        pytest.skip(reason)
    with browser() as page:
        yield page


@pytest.fixture
def page(tab: Page, file: Path) -> Iterator[Page]:
    """The page, freshly loaded; afterwards the console must be empty."""
    tab.open(file)
    yield tab
    assert tab.console() == []


def names(page: Page) -> list[str]:
    """Names of the rows that are shown, in their order."""
    script = "return [...document.querySelectorAll('tr.row')].map(row => row.dataset.name)"
    return [str(name) for name in page.js(script)]


def test_the_page_is_one_file_without_addresses(file: Path) -> None:
    text = file.read_text("utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert not re.search(r"<(?:link|img|iframe|script[^>]* src)", text)
    assert "default-src 'none'" in text
    assert text.count("</script>") == 2


def test_only_the_style_and_script_of_the_page_may_run(file: Path) -> None:
    text = file.read_text("utf-8")
    (policy,) = re.findall('Content-Security-Policy" content="(.*?)"', text)
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"@[A-Z]+@", text)


@pytest.mark.skipif(shutil.which("node") is None, reason="no node found, which checks JavaScript")
@pytest.mark.parametrize(
    "script", sorted(Path(ckptkit.__file__).parent.rglob("*.js")), ids=lambda path: path.name
)
def test_every_script_is_javascript(script: Path) -> None:
    done = subprocess.run(
        ["node", "--check", script], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr


def test_nothing_is_fetched_and_names_stay_text(page: Page) -> None:
    assert page.js("return performance.getEntriesByType('resource').length") == 0
    assert page.js("return document.title").endswith("ckptkit diff")
    page.click(".chip[data-value=equal]")
    assert EVIL in names(page)
    assert page.js("return document.querySelectorAll('img').length") == 0


def test_verdict_and_counts(page: Page, result: DiffResult) -> None:
    assert not result.same
    (verdict,) = page.texts("#verdict")
    assert verdict.startswith("different: 13 changed, 1 removed, 1 added, 1 renamed; 1 equal")
    assert page.texts(".chip") == [
        *("changed 13", "removed 1", "added 1", "renamed 1", "equal 1"),
    ]
    assert page.texts("#tensors .told") == ["16 of 17 tensors"]


def test_the_table_sorts_both_ways_and_back(page: Page) -> None:
    before = names(page)
    changes = "th[data-key=change] button"
    page.click(changes)
    down = names(page)
    assert page.js("return document.querySelector('th[data-key=change]').ariaSort") == "descending"
    layers = [name for name in down if name.startswith("layer_")]
    assert layers == [f"layer_{i}/kernel" for i in reversed(range(LAYERS))]
    assert down[0] == "steps/w"  # from zero: an infinite change
    page.click(changes)
    up = [name for name in names(page) if name.startswith("layer_")]
    assert up == list(reversed(layers))
    assert set(names(page)[-2:]) == {"gone/w", "fresh/w"}  # no change to sort by
    page.click(changes)
    assert names(page) == before


def test_names_sort_by_number_not_by_digit(page: Page) -> None:
    page.click("th[data-key=name] button")
    layers = [name for name in names(page) if name.startswith("layer_")]
    assert layers == [f"layer_{i}/kernel" for i in range(LAYERS)]


def test_the_table_filters_by_text_status_and_layer(page: Page) -> None:
    page.type("#tensors .search", "layer_1 kernel")
    assert names(page) == ["layer_1/kernel", "layer_10/kernel", "layer_11/kernel"]
    assert page.texts("#tensors .told") == ["3 of 17 tensors"]
    page.click("#tensors .clear")
    assert len(names(page)) == 16
    page.click(".chip[data-value=changed]")
    assert sorted(names(page)) == ["a/w → b/w", "fresh/w", "gone/w"]
    page.click(".chip[data-value=changed]")
    page.click(".strip button[title^='layer_3 ']")
    assert names(page) == ["layer_3/kernel"]
    page.click(".strip button[title^='layer_3 ']")
    assert len(names(page)) == 16


def test_a_row_opens_to_all_its_numbers(page: Page) -> None:
    page.type("#tensors .search", "layer_4")
    page.click("tr.row")
    (details,) = page.texts("tr.more")
    for title in ("key in the old file", "paired by", "RMSE", "max ULP", "cosine", "smallest rtol"):
        assert title in details
    page.click("tr.row")
    assert page.texts("tr.more") == []


def test_the_strip_shows_a_larger_change_higher_and_hotter(page: Page) -> None:
    heights = page.js(
        "return [...document.querySelectorAll('.strip button')]"
        ".filter(cell => cell.title.startsWith('layer_'))"
        ".map(cell => parseFloat(getComputedStyle(cell, '::after').height))"
    )
    assert len(heights) == LAYERS and heights == sorted(heights) and heights[0] < heights[-1]


def test_what_has_no_number_is_no_small_change(page: Page) -> None:
    """From zeros to something, and to infinity: neither may look like the least of all changes."""
    box = "const cell = document.querySelector('.strip button[data-layer=steps]');"
    assert page.js(f"{box} return cell.classList.contains('endless')")
    height = page.js(f"{box} return parseFloat(getComputedStyle(cell, '::after').height)")
    assert height >= page.js(f"{box} return cell.clientHeight") - 1
    first = page.texts(".callout")[0]
    assert first.startswith("steps/w") and "not finite" in first
    page.click(".callout")
    assert page.texts("tr.row [aria-expanded=true]") == ["steps/w"]


def test_the_address_keeps_what_was_asked_for(tab: Page, file: Path) -> None:
    tab.open(file)
    tab.type("#tensors .search", "layer_1")
    tab.click("th[data-key=change] button")
    tab.click("tr.row")
    before = names(tab)
    address = tab.js("return location.hash")
    tab.js("location.hash = ''")
    tab.wait("return document.querySelectorAll('tr.row').length > 10")
    tab.js("location.hash = arguments[0]", address)
    tab.wait("return document.querySelectorAll('tr.row').length < 10")
    assert names(tab) == before and before[0] == "layer_11/kernel"
    assert len(tab.texts("tr.more")) == 1
    assert tab.console() == []


def test_histograms_count_every_element(page: Page, result: DiffResult) -> None:
    counted = page.js(
        "return data.sections.find(s => s.kind === 'histograms').pictures"
        ".map(h => [h.row, h.counts.reduce((a, b) => a + b)])"
    )
    assert len(counted) == 12
    for index, count in counted:
        delta = result.changes[index].delta
        assert delta is not None and count == delta.n
    assert page.js("return document.querySelectorAll('#histograms svg rect').length") > 100
    page.click(".histogram")
    assert len(page.texts("tr.more")) == 1


def test_light_and_dark_differ_and_stay_readable(page: Page) -> None:
    colours = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    light = page.js(colours)
    page.click("#theme")
    dark = page.js(colours)
    assert light != dark
    for ink, ground in (light, dark):
        assert contrast(ink, ground) > 7


def test_dark_follows_the_system(file: Path) -> None:
    reason = missing()
    if reason:
        pytest.skip(reason)
    with browser(dark=True) as page:
        page.open(file)
        assert page.js("return document.documentElement.dataset.theme") == "dark"


def test_a_narrow_window_does_not_scroll_sideways(page: Page) -> None:
    page.js(
        "const strip = document.querySelector('.strip');"
        "for (let i = 0; i < 400; i++) strip.append(strip.children[0].cloneNode())"
    )
    page.resize(420, 900)
    try:
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.js(wide) <= 0
    finally:
        page.resize(1400, 1600)


def contrast(one: str, two: str) -> float:
    """Return the contrast ratio of two CSS colours, as WCAG defines it."""
    light = sorted((luminance(one), luminance(two)))
    return (light[1] + 0.05) / (light[0] + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_names_that_differ_are_both_shown(tab: Page, tmp_path: Path) -> None:
    old = write_bundle(tmp_path / "old", {"net/w": np.ones(3), "same": np.ones(2)})
    new = write_bundle(tmp_path / "new", {"model/w": np.zeros(3), "same": np.zeros(2)})
    path = tmp_path / "diff.html"
    path.write_text("\n".join(diff_html.lines(diff(old, new, rules=["net/=>model/"]))), "utf-8")
    tab.open(path)
    assert sorted(tab.texts("tr.row td.name")) == ["net/w → model/w", "same"]


def layers_of(result: DiffResult) -> dict[str, dict[str, object]]:
    """Return what the strip says of each layer."""
    (strip,) = (s for s in diff_html.page(result).sections if s["kind"] == "strip")
    return {layer["name"]: layer for layer in strip["layers"]}


def test_a_layer_is_drawn_by_its_weights(tmp_path: Path) -> None:
    """Slots begin as zeros: that is no infinite change of the layer, as long as it is a slot's."""
    old: dict[str, Array] = {
        "a/w": np.ones(9),
        "a/w/Adam": np.zeros(9),
        "b/w": np.ones(9),
        "b/w/Adam": np.zeros(9),
        "c/w": np.ones(9),
        "c/v": np.ones(9),
        "c/w/Adam": np.ones(9),
        "z/w": np.zeros(9),
    }
    new = {**old, "a/w": 1.01 * old["a/w"], "a/w/Adam": np.ones(9), "b/w/Adam": np.ones(9)}
    new |= {"c/w": 1.001 * old["c/w"], "z/w": 1e-9 * np.ones(9)}
    del new["c/v"]
    found = layers_of(
        diff(write_bundle(tmp_path / "old", old), write_bundle(tmp_path / "new", new))
    )
    assert found["a"]["change"] == pytest.approx(0.01) and not found["a"]["rest"]
    assert found["b"]["rest"] and found["b"]["different"] == 1
    assert found["c"]["special"] == "removed" and not found["c"]["rest"]
    assert found["z"]["change"] == "Infinity" and not found["z"]["rest"]


def test_layers_stand_in_the_order_of_the_model() -> None:
    """A file of Keras tells it: a convolution, its normalisation, an inner model."""
    model = GOLDEN / "tf2.21.0" / "files_nested" / "model.keras"
    (strip,) = (s for s in diff_html.page(diff(model, model)).sections if s["kind"] == "strip")
    assert "in the order of the model" in strip["order"]
    assert [layer["name"] for layer in strip["layers"]][:3] == ["conv", "bn", "inner/out"]


def test_a_layer_that_is_gone_and_one_wrong_value_are_named(tmp_path: Path) -> None:
    """Neither is hidden by layers that change more as a whole."""
    rng = np.random.default_rng(5)
    old: dict[str, Array] = {
        f"layer_{i}/kernel": rng.standard_normal((8, 8)).astype("f4") for i in range(6)
    }
    old["huge/kernel"] = np.ones((400, 500), "f4")
    old["gone/kernel"], old["gone/bias"] = np.ones((4, 4), "f4"), np.ones(4, "f4")
    new = {name: values * np.float32(1.1) for name, values in old.items() if "gone" not in name}
    new["huge/kernel"] = old["huge/kernel"].copy()
    new["huge/kernel"][3, 7] = -2.0
    found = diff(write_bundle(tmp_path / "old", old), write_bundle(tmp_path / "new", new))
    shown = diff_html.page(found).sections[0]["callouts"]
    first, last = shown[0], shown[-1]
    assert (first["title"], first["value"], first["severe"]) == ("gone", "removed", True)
    assert first["text"] == "2 weights, in the old file alone"
    assert (last["title"], last["value"]) == ("huge/kernel", "3")
    assert "3 times the rms of its tensor; 1 of 200,000 differ" in last["text"]
    assert found.changes[last["row"]].name == "huge/kernel"
