"""The report in a real headless Chromium, driven over its debugging pipe."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from holdfast.report.html import write_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


class Chromium:
    """One headless Chromium, spoken to in DevTools messages ended by NUL on descriptors 3 and 4."""

    def __init__(self, home: Path) -> None:
        theirs_in, self.out = os.pipe()
        self.into, theirs_out = os.pipe()

        def place() -> None:
            # Copies first: a pipe may itself have been given number 3 or 4.
            spare = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(spare[0], 3)
            os.dup2(spare[1], 4)

        self.process = subprocess.Popen(
            [
                str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--hide-scrollbars", f"--user-data-dir={home}", "--remote-debugging-pipe",
            ],
            preexec_fn=place, close_fds=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self.events: list[dict[str, Any]] = []
        self.number, self.left, self.session = 0, b"", None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def read(self) -> dict[str, Any]:
        while b"\0" not in self.left:
            more = os.read(self.into, 1 << 16)
            assert more, "the browser has gone"
            self.left += more
        line, _, self.left = self.left.partition(b"\0")
        message = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, page: Path, width: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
            mobile=width < 600,
        )  # fmt: skip
        self.events.clear()
        self.send("Page.navigate", url=page.as_uri())
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self.read()

    def value(self, expression: str) -> Any:
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path) -> Path:
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def complaints(self) -> list[Any]:
        """Every console message, logged error and thrown exception since the page opened."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [e["params"] for e in self.events if e["method"] in kinds]

    def requests(self) -> list[str]:
        """Every address the page asked for since it opened."""
        return [
            e["params"]["request"]["url"]
            for e in self.events
            if e["method"] == "Network.requestWillBeSent"
        ]

    def close(self) -> None:
        self.session = None
        self.send("Browser.close")
        self.process.wait(timeout=20)
        os.close(self.out)
        os.close(self.into)


@pytest.fixture
def browser(tmp_path):
    if BROWSER is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs the command 'chromium' for this test")
        pytest.skip("the command 'chromium' is not installed")
    chromium = Chromium(tmp_path / "profile")
    yield chromium
    chromium.close()


@pytest.mark.parametrize("width", [1280, 420])
def test_report_opens_without_complaint_or_request_and_fits(browser, page, tmp_path, width):
    browser.open(page, width)
    assert browser.complaints() == []
    # The icon is an empty data: address, so that no browser goes looking for one.
    assert set(browser.requests()) - {"data:,"} == {page.as_uri()}
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("document.querySelectorAll('figure svg').length") >= 9
    narrow = browser.value(
        "Math.min(...[...document.querySelectorAll('figure svg')]"
        ".map(s => s.getBoundingClientRect().width))"
    )
    assert narrow > 200
    assert browser.screenshot(tmp_path / f"{width}.png").stat().st_size > 50_000


def test_the_policy_is_in_force(browser, page):
    browser.open(page, 1280)
    policy = browser.value(
        "document.querySelector('meta[http-equiv=Content-Security-Policy]').content"
    )
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    # The style was let in by its hash; a script and a foreign style put in afterwards are not.
    assert browser.value("getComputedStyle(document.body).margin") == "0px"
    browser.value(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        "document.head.append(s); const c = document.createElement('style');"
        "c.textContent = 'body{margin:99px}'; document.head.append(c); })()"
    )
    assert browser.value("window.ran === undefined")
    assert browser.value("getComputedStyle(document.body).margin") == "0px"


def test_hostile_completions_are_shown_harmlessly(browser, tmp_path, outcomes, lineups, meta):
    hostile = [
        "<script>window.ran = 1</script><img src=https://example.org/x onerror=window.ran=1>",
        "</pre></style></div><style>body{display:none}</style><h1>gone</h1>",
        "a" * 1_000_000,
        "left \u202e right \u2066 isolate \u200b zero",
        "nul \x00 bell \x07 escape \x1b[31m",
        "lone \ud800 surrogate \udfff",
        "{{ 7 * 7 }}{% raw %} $x^2$ &lt;b&gt;",
        "z" + "\u0301" * 500,
    ]
    rows = [
        {**row, "prompt": hostile[i % 8], "response": hostile[(i // 2) % 8]}
        for i, row in enumerate(outcomes)
    ]
    # Names are no safer than texts: a line-up may be called anything.
    for row in rows:
        row["lineup"] = {"sgt": "<script>window.ran=1</script>$x$\x00"}.get(
            row["lineup"], row["lineup"]
        )
    page = write_report(rows, lineups, meta, tmp_path / "report.html", show_text=True)
    assert page.stat().st_size < 1_500_000
    browser.open(page, 420)
    assert browser.complaints() == []
    assert set(browser.requests()) - {"data:,"} == {page.as_uri()}
    assert browser.value("window.ran === undefined && document.scripts.length === 0")
    assert browser.value("document.querySelectorAll('style').length") == 1
    assert browser.value("document.querySelectorAll('h1').length") == 1
    assert browser.value("document.documentElement.scrollWidth") <= 420
    text = browser.value("document.body.innerText")
    assert "\u202e" not in text
    assert "\x00" not in text
    assert "[U+" in text
    browser.screenshot(tmp_path / "hostile.png")
