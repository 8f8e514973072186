"""Draw docs/terminal.svg: what a terminal shows of README's first commands on `ckptkit sample`.

python docs/site/picture.py      (needs rich, of the extra `site`)
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "ls run --role weight",
    "diff before.keras after.keras --role weight",
    "verify run",
)
WIDTH = 112


def main() -> None:
    """Run the commands on a fresh sample, and write what they print as a picture."""
    console = Console(width=WIDTH, record=True, file=io.StringIO())
    with tempfile.TemporaryDirectory() as folder:
        ckptkit(folder, "sample", "sample")
        for command in COMMANDS:
            console.print(Text.assemble(("$ ", "bold green"), f"ckptkit {command}"))
            output = ckptkit(f"{folder}/sample", *command.split(), "--color", "always")
            console.print(Text.from_ansi(output.rstrip()), soft_wrap=False)
            console.print()
    svg = console.export_svg(title="ckptkit", unique_id="ckptkit")
    # No fonts are fetched when it is looked at.
    svg = re.sub(r"(?s)@font-face \{.*?\}", "", svg)
    (ROOT / "docs" / "terminal.svg").write_text(svg, encoding="utf-8")


def ckptkit(folder: str, *words: str) -> str:
    """Return what a command prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(WIDTH)}
    command = [sys.executable, "-m", "ckptkit", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    return done.stdout


if __name__ == "__main__":
    main()
