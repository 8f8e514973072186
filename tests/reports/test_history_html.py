"""The page of `history --format html`, in a real browser: it maps, charts, and asks for nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit.operations.history.result import History
from ckptkit.operations.history.types import (
    RunStep,
    TensorHistory,
    TensorMeasurement,
    TensorUpdate,
)
from ckptkit.operations.statistics import Statistics
from ckptkit.reports.history import html
from support.browser import Page, browser, missing
from support.weights import Array, write_bundle

EVIL = "evil</script><img src=x onerror=document.title='broken'>/w"
LAYERS, STEPS = 5, 8


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(3)
    arrays: dict[str, Array] = {f"l{i}/kernel": rng.standard_normal((9, 6)) for i in range(LAYERS)}
    arrays[EVIL] = rng.standard_normal(50)
    for step in range(STEPS):
        for number, name in enumerate(arrays):
            change = 10.0 ** (number - 6) * rng.standard_normal(arrays[name].shape)
            arrays[name] = arrays[name] + change
        if step == 6:
            arrays["l2/kernel"][0, 0] = np.nan
        write_bundle(folder / f"ckpt-{10 * (step + 1)}", arrays)
    return ckptkit.history(folder)


@pytest.fixture(scope="module")
def file(history: History, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "history.html"
    path.write_text("\n".join(html.lines(history)), "utf-8")
    return path


@pytest.fixture(scope="module", params=[False, True], ids=["light", "dark"])
def tab(request: pytest.FixtureRequest) -> Iterator[Page]:
    reason = missing()
    if reason:
        pytest.skip(reason)
    with browser(dark=request.param) as page:
        yield page


@pytest.fixture
def page(tab: Page, file: Path) -> Iterator[Page]:
    """The page, freshly loaded; afterwards the console must be empty."""
    tab.open(file)
    yield tab
    assert tab.console() == []


def test_the_page_is_one_file_without_addresses(file: Path) -> None:
    text = file.read_text("utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert not re.search(r"<(?:link|img|iframe|script[^>]* src)", text)
    assert "default-src 'none'" in text
    assert text.count("</script>") == 2
    assert not re.search(r"@[A-Z]+@", text)


def test_map_findings_and_names(page: Page) -> None:
    assert page.js("return performance.getEntriesByType('resource').length") == 0
    assert page.js("return document.title").endswith("ckptkit history")
    assert page.js("return document.querySelectorAll('img').length") == 0
    assert page.texts("#names div") == [EVIL[:-2], *(f"l{i}" for i in range(LAYERS))]
    (verdict,) = page.texts("#verdict")
    assert "8 steps, 10 to 80" in verdict
    assert [text[:10] for text in page.texts("#findings .error b")] == ["weight.nan"]


def test_keys_move_and_open_a_layer(page: Page) -> None:
    page.js("document.getElementById('map').focus()")
    page.js(
        "for (const key of ['ArrowDown', 'ArrowDown', 'ArrowDown', 'End', 'Enter'])"
        "  document.getElementById('map').dispatchEvent("
        "    new KeyboardEvent('keydown', {key, bubbles: true}))"
    )
    (tip,) = page.texts("#tip")
    assert tip.startswith("l2 · step 80")
    assert "1 NaN or infinite" in tip
    assert page.texts("#layer") == ["l2"]
    assert len(page.texts("#charts svg")) == 3
    page.click("#close")
    assert page.js("return document.getElementById('layer-section').hidden")


def test_metrics_themes_and_two_steps(page: Page) -> None:
    for metric in page.texts("#metric option"):
        page.js(
            "const s = document.getElementById('metric'); s.value = arguments[0];"
            "s.dispatchEvent(new Event('change'))",
            metric,
        )
        assert page.texts("#tip")[0]
    before = page.js("return getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.js("return getComputedStyle(document.body).backgroundColor") != before
    rows = page.texts("#pairs tr")
    assert len(rows) == LAYERS + 1
    assert page.texts("#between")[0].startswith("6 of 6 tensors changed")
    page.click("#findings button")
    assert page.texts("#layer") == ["l2"]


@pytest.mark.slow
def test_750_tensors_and_200_steps_are_less_than_3_mb() -> None:
    rng = np.random.default_rng(0)
    steps = tuple(RunStep(n, Path(f"run/ckpt-{n}"), "tensor-bundle") for n in range(200))

    def measured() -> dict[int, TensorMeasurement]:
        numbers = rng.standard_normal((200, 6))
        return {
            at: TensorMeasurement(
                f"{at}",
                Statistics(10**6, 0, 0, at, *numbers[at, :5].tolist()),
                update=TensorUpdate(float(numbers[at, 5])),
            )
            for at in range(200)
        }

    tensors = tuple(
        TensorHistory(
            f"model/layers/{i // 3}/attention/w{i % 3}@momentum",
            "slot",
            f"model/layers/{i // 3}/attention",
            *(None, None, None),
            dict.fromkeys(range(200), (1000, 1000)),
            dict.fromkeys(range(200), "float32"),
            measured(),
        )
        for i in range(750)
    )
    text = "\n".join(html.lines(History((Path("run"),), steps, tensors, ())))
    assert len(text.encode()) < 3_000_000
