"""Every Python and every bound of a dependency that setup.cfg claims, tried as far as it is here.

    make versions [EXTRAS=tensorflow,hdf5] [PYTHONS=3.10,3.13]

For the Python at hand and each `python3.N` of the workflow's matrix on PATH: a fresh environment,
an installation, the tests that need no TensorFlow, ruff and mypy for that version.  Those that are
not on PATH, or do not start, are printed as not tried; for them, ruff and mypy run with the Python
at hand, and pip says whether every dependency has a wheel for them.  Once: vermin, which knows
since when the standard library has what is used.  Then every extra twice: all its dependencies, and
those of the package, as low as setup.cfg allows on the oldest Python here, and as new as there are
on the newest one; what `ckptkit sample` writes is looked at with each of them.  Environments in
which all went well are removed at once: together they would take tens of gigabytes.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "tests.yml"
LIGHT = "not needs_tf and not runtimes and not slow"
# Commands that read every format of the sample; @ is where it lies.
USED = (
    "ls @/run --stats --digest",
    "diff @/run/ckpt-2 @/export --role weight",
    "verify -r @",
    "history @/run",
    "scan @/export",
    "convert @/after.keras @/after.safetensors --weights-only",
    "convert @/run/ckpt-2 @/half.npz --weights-only --cast float32=bfloat16",
)
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9]+(?:\.[0-9]+)*)")


class Python(NamedTuple):
    """An interpreter, or why there is none: exactly one of `path` and `why_not` is given."""

    version: str  # "3.11"
    path: str
    why_not: str


class Row(NamedTuple):
    """One thing that was tried: with which Python, what, how it went, how long it took."""

    python: str
    what: str
    result: str
    seconds: float


def metadata() -> configparser.ConfigParser:
    """Return setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def minimum_python() -> str:
    """Return the oldest Python that setup.cfg asks for, such as "3.10"."""
    return metadata()["options"]["python_requires"].removeprefix(">=")


def matrix() -> list[str]:
    """Return the versions on which the workflow runs the tests without TensorFlow, oldest first."""
    jobs = WORKFLOW.read_text(encoding="utf-8").partition("\n  light:\n")[2]
    found = re.search(r"python: \[(.*)\]", jobs)
    if found is None:
        raise SystemExit(f"{WORKFLOW} has no matrix of versions")
    return re.findall(r"3\.\d+", found[1])


def pythons(versions: Iterable[str], path: str | None = None) -> Iterator[Python]:
    """Yield the interpreters of these versions.

    Args:
        versions: such as "3.11".
        path: in place of the variable PATH.

    Yields:
        One for each, in this order; the one at hand stands for its own version.
    """
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    for version in versions:
        found = [sys.executable] if version == here else _on_path(f"python{version}", path)
        why_not = f"python{version} is not on PATH"
        for program in found:
            # A shim may stand for an interpreter that is not there, or hide one that is.
            ask = "import sys; print('%d.%d' % sys.version_info[:2])"
            done = subprocess.run([program, "-c", ask], capture_output=True, text=True, check=False)
            if done.stdout.strip() == version:
                yield Python(version, program, "")
                break
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[0]
            why_not = f"{program} does not start it: {said}"
        else:
            yield Python(version, "", why_not)


def _on_path(name: str, path: str | None) -> list[str]:
    """Return all programs of a name on PATH, or on `path`, in its order."""
    folders = (os.environ.get("PATH", os.defpath) if path is None else path).split(os.pathsep)
    found = (shutil.which(name, path=folder) for folder in folders if folder)
    return [program for program in found if program]


def lowest(requirements: str) -> list[str]:
    """Return constraints that hold each requirement to the series of its lower bound.

    A series and not the one version: the first release of a series may have no wheel for a Python
    that was released after it.

    Args:
        requirements: as they stand in setup.cfg, one a line.

    Returns:
        Such as "numpy==1.23.*"; nothing for those without a bound, or with one that is a pin.
    """
    found = [_REQUIREMENT.match(line.strip()) for line in requirements.splitlines()]
    return [f"{match[1]}=={match[2]}.*" for match in found if match]


class Trial:
    """A fresh environment of one Python, and what was tried in it."""

    def __init__(self, folder: Path, python: Python, name: str) -> None:
        self.python = python
        self.name = name
        self.folder = folder / f"{python.version}-{name}"
        self.log = folder / f"{python.version}-{name}.log"
        self.rows: list[Row] = []
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("", encoding="utf-8")

    @property
    def ok(self) -> bool:
        """Whether all went well so far."""
        return all(row.result == "ok" for row in self.rows)

    def run(self, what: str, *command: str, fine: Sequence[int] = (0,)) -> bool:
        """Run a command in the checkout, note how it went, and return whether it went well.

        Args:
            what: it is, for people.
            *command: it; the program is the environment's own, if it has one of that name.
            fine: the exit codes that are.
        """
        began = time.monotonic()
        program = self.folder / "bin" / command[0]
        words = [str(program) if program.exists() else command[0], *command[1:]]
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(words)}\n")
            log.flush()
            done = subprocess.run(words, cwd=ROOT, stdout=log, stderr=log, check=False)
        result = "ok" if done.returncode in fine else f"failed: {self.log}"
        self.rows.append(Row(self.python.version, what, result, time.monotonic() - began))
        print(f"{self.python.version} {what}: {result}", flush=True)
        return done.returncode in fine

    def install(self, what: str, extras: str, constraints: Sequence[str] = ()) -> bool:
        """Make the environment anew and install the checkout there, with these extras."""
        file = self.log.with_suffix(".constraints")
        file.write_text("\n".join(constraints) + "\n", encoding="utf-8")
        if not self.run(
            f"{what}: environment", self.python.path, "-m", "venv", "--clear", str(self.folder)
        ):
            return False
        pip = ("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        return self.run(f"{what}: installed", *pip, "-c", str(file), "-e", f".[{extras}]")

    def lint(self, version: str) -> None:
        """Run ruff and mypy, which need not be that version themselves."""
        target = f"py{version.replace('.', '')}"
        ruff = ["python", "-m", "ruff", "check", "--no-cache", "--target-version", target]
        if version != minimum_python():
            # Other rules recommend what a newer Python has, and the oldest one lacks it.
            ruff += ["--select", "E,F,W"]
        self.run(f"ruff {target}", *ruff, "ckptkit", "tests", "benchmarks")
        self.run(f"mypy {version}", "python", "-m", "mypy", "--python-version", version)

    def close(self) -> list[Row]:
        """Remove the environment if all went well, and return the rows."""
        if self.ok:
            shutil.rmtree(self.folder, ignore_errors=True)
        return self.rows

    def light_tests(self, what: str) -> bool:
        """Run the tests that need no TensorFlow."""
        pytest = ("python", "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", LIGHT)
        return self.run(f"{what}: light tests", *pytest)


def try_python(folder: Path, python: Python) -> list[Row]:
    """Install with the newest dependencies, run the light tests, lint and type check."""
    trial = Trial(folder, python, "newest")
    if trial.install("newest", "test-light,lint"):
        trial.light_tests("newest")
        trial.lint(python.version)
    return trial.close()


def try_absent(folder: Path, python: Python, versions: Sequence[str]) -> list[Row]:
    """Try what can be tried of versions that are not here, by a Python that is.

    Args:
        folder: where environments are made.
        python: the interpreter that runs pip, ruff and mypy.
        versions: those that are not here, such as "3.14".

    Returns:
        Rows of that interpreter, whose text says which version they are about.
    """
    if not versions:
        return []
    trial = Trial(folder, python, "absent")
    if trial.install("absent", "lint"):
        options = metadata()
        needed = options["options"]["install_requires"].strip().splitlines()
        tested = options["options.extras_require"]["test-light"].strip().splitlines()
        pip = ("python", "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed")
        wheels = ("--only-binary=:all:", "--target", str(trial.folder / "none"))
        for version in versions:
            asked = (*wheels, "--implementation", "cp", "--python-version", version)
            trial.run(f"wheels for {version}", *pip, *asked, *needed, *tested)
            trial.lint(version)
    return trial.close()


def try_minimum(folder: Path, python: Python, minimum: str) -> list[Row]:
    """Ask vermin whether the package needs no more than the Python that setup.cfg asks for."""
    trial = Trial(folder, python, "minimum")
    if trial.install("minimum", "versions"):
        # tomli stands in for tomllib; a variable called `file` is not what Python 2 called so
        vermin = ["vermin", "--no-tips", "--eval-annotations", "--violations"]
        vermin += ["--exclude", "tomllib", "--exclude", "file"]
        target = f"-t={minimum}-"
        trial.run(f"vermin {target}", *vermin, target, "ckptkit", "ckptkit_tf.py")
    return trial.close()


def try_bounds(folder: Path, python: Python, extra: str, is_lowest: bool) -> list[Row]:
    """Install an extra with the lowest, or the newest, versions, and use the package."""
    options = metadata()
    needed = options["options"]["install_requires"]
    wanted = options["options.extras_require"][extra]
    what = f"{'lowest' if is_lowest else 'newest'} of [{extra}]"
    trial = Trial(folder, python, f"{'lowest' if is_lowest else 'newest'}-{extra}")
    constraints = lowest(f"{needed}\n{wanted}") if is_lowest else []
    installed = trial.install(what, extra, constraints)
    if not installed and "ResolutionImpossible" in trial.log.read_text(encoding="utf-8"):
        # The lowest version of a dependency may ask for more of another than the package does.
        trial.rows.clear()
        installed = trial.install(f"{what}, others as it needs them", extra, lowest(wanted))
    if installed:
        ckptkit = ("python", "-m", "ckptkit")
        sample = trial.folder / "sample"  # the environment is made anew, so there is none yet
        trial.run(f"{what}: sample", *ckptkit, "sample", str(sample))
        for line in USED:
            words = [word.replace("@", str(sample)) for word in line.split()]
            trial.run(f"{what}: {words[0]}", *ckptkit, *words)
        # 2: no runtime is there, which is right for most of the extras
        trial.run(f"{what}: doctor", *ckptkit, "doctor", fine=(0, 2))
    return trial.close()


def main() -> None:
    """Try everything, print a table; exit 1 where anything failed."""
    extras = metadata()["options.extras_require"]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--extras", default=",".join(extras), help="those that are installed")
    parser.add_argument("--pythons", default=",".join(matrix()), help="versions to try")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "versions")
    options = parser.parse_args()
    found = list(pythons(options.pythons.split(",")))
    usable = [python for python in found if python.path]
    rows = [Row(p.version, "", f"not tried: {p.why_not}", 0.0) for p in found if not p.path]
    for python in usable:
        rows += try_python(options.work, python)
    rows += try_absent(options.work, usable[-1], [p.version for p in found if not p.path])
    rows += try_minimum(options.work, usable[-1], minimum_python())
    for extra in filter(None, options.extras.split(",")):
        rows += try_bounds(options.work, usable[0], extra, True)
        rows += try_bounds(options.work, usable[-1], extra, False)
    headers = ("PYTHON", "WHAT", "RESULT", "SECONDS")
    print("\n" + tabulate(rows, headers, floatfmt=".0f"))
    failed = [row for row in rows if row.result.startswith("failed")]
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
