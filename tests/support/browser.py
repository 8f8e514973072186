"""A real headless browser for tests, driven through WebDriver with the standard library alone.

Needs Chromium and chromedriver (Debian: `apt-get install chromium chromium-driver`).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # key of an element's id, from the W3C standard
_TIMEOUT_S = 600
TAB, ENTER, DOWN = "\ue004", "\ue007", "\ue015"  # keys, https://www.w3.org/TR/webdriver2/
CHROMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def missing() -> str | None:
    """Return what is missing to run a browser, or None."""
    if not any(shutil.which(name) for name in CHROMES):
        return "no Chromium or Chrome found"
    return None if shutil.which("chromedriver") else "no chromedriver found"


class Page:
    """One tab of a running browser."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send one WebDriver command; raises urllib.error.HTTPError when it fails."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, method=method)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            return json.load(response)["value"]

    def open(self, file: Path) -> None:
        """Load a local file and wait until its script says that it is ready."""
        self.call("POST", "/url", {"url": "about:blank"})  # else one with another # stays as it is
        self.call("POST", "/url", {"url": file.absolute().as_uri()})
        self.wait("return document.body.dataset.ready === 'yes'")

    def js(self, script: str, *arguments: Any) -> Any:
        """Run the body of a function in the page."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, timeout_s: float = 600) -> None:
        """Wait until a script returns true."""
        end = time.monotonic() + timeout_s
        while not self.js(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)

    def element(self, css: str) -> str:
        """Return the id of the first element that fits a selector."""
        found = self.call("POST", "/element", {"using": "css selector", "value": css})
        return str(found[_ELEMENT])

    def click(self, css: str) -> None:
        """Click as a person does: the element must be visible and uncovered."""
        self.call("POST", f"/element/{self.element(css)}/click", {})

    def type(self, css: str, text: str) -> None:
        """Replace what an input holds by typing."""
        element = self.element(css)
        self.call("POST", f"/element/{element}/clear", {})
        self.call("POST", f"/element/{element}/value", {"text": text})

    def press(self, key: str) -> None:
        """Press a key where the focus is, as a person does; `key` as WebDriver has it."""
        pressed = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": pressed}]})

    def texts(self, css: str) -> list[str]:
        """Return the text of every element that fits a selector."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        return [str(text) for text in self.js(script, css)]

    def console(self) -> list[dict[str, Any]]:
        """Return what the console has received since the last call: errors, refused requests.

        What the browser says of pages of its own is left out: that the network is slow, say.
        """
        entries = self.call("POST", "/se/log", {"type": "browser"})
        return [entry for entry in entries if not entry["message"].startswith("chrome://")]

    def devtools(self, command: str, **parameters: object) -> dict[str, Any]:
        """Send a command of the DevTools protocol, which WebDriver has no word for."""
        body = {"cmd": command, "params": parameters}
        return dict(self.call("POST", "/goog/cdp/execute", body))

    def media(self, kind: str = "", **features: str) -> None:
        """Show pages as on paper ("print"), or for a person with these settings; none undo it."""
        told = [{"name": name.replace("_", "-"), "value": v} for name, v in features.items()]
        self.devtools("Emulation.setEmulatedMedia", media=kind, features=told)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window in pixels."""
        self.call("POST", "/window/rect", {"width": width, "height": height})


@contextmanager
def browser(*, dark: bool = False) -> Iterator[Page]:
    """Run a headless browser for the time of a `with`."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = subprocess.Popen(
            ["chromedriver", "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            base = f"http://127.0.0.1:{_port(driver)}"
            page = Page(f"{base}/session/{_session(base, profile, dark)}")
            try:
                yield page
            finally:
                page.call("DELETE", "")
        finally:
            driver.terminate()
            driver.wait(600)
            assert driver.stdout is not None
            driver.stdout.close()


def _port(driver: subprocess.Popen[str]) -> int:
    assert driver.stdout is not None
    for line in driver.stdout:
        found = re.search(r"started successfully on port (\d+)", line)
        if found:
            return int(found[1])
    raise AssertionError("chromedriver did not start")


def _session(base: str, profile: str, dark: bool) -> str:
    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    arguments += [f"--user-data-dir={profile}", "--window-size=1400,1600"]
    if dark:
        arguments.append("--blink-settings=preferredColorScheme=0")
    capabilities = {
        "browserName": "chrome",
        "goog:chromeOptions": {
            "args": arguments,
            "binary": next(filter(None, map(shutil.which, CHROMES))),
        },
        "goog:loggingPrefs": {"browser": "ALL"},
    }
    started = Page(base).call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
    return str(started["sessionId"])
