"""A part of the matrix of reference models and forms; `make matrix` runs all of it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from benchmarks.form_matrix import BEGIN, DOCUMENT, END, HEADERS, MAX_REFUSED, main


@pytest.mark.slow
@pytest.mark.needs_tf
def test_every_form_is_the_same_and_goes_into_every_other() -> None:
    done = CliRunner().invoke(main, ["subclassed", "mlp_module"])
    assert done.exit_code == 0, done.output
    total = next(line for line in done.output.splitlines() if "| all " in line)
    cells = dict(zip(HEADERS[1:], (cell.strip() for cell in total.split("|")[2:-1]), strict=True))
    assert cells["compared"] == cells["the same"] == "22"
    assert cells["refused"] == "0" and cells["converted"] == "22"
    assert cells["run"] == cells["equal outputs"] == "22"


def test_the_document_has_the_whole_matrix() -> None:
    table = DOCUMENT.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    total = next(line for line in table.splitlines() if "| all " in line)
    numbers = [int(cell) for cell in total.split("|")[2:-1]]
    _forms, compared, same, _converted, refused, run, equal = numbers
    assert compared == same > 200 and refused <= MAX_REFUSED and run == equal > 150
