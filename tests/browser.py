"""A real browser for tests and screenshots: Debian's chromium through chromedriver's W3C WebDriver, by HTTP alone."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
]  # fmt: skip
"""Without background networking: the page under test is all that it may load."""


def why_no_browser() -> str | None:
    """What is missing, or None."""
    if shutil.which("chromedriver") and (shutil.which("chromium") or shutil.which("google-chrome")):
        return None
    return "no chromium with chromedriver here (Debian's packages chromium and chromium-driver)"


class Browser:
    """A window of the given size in CSS pixels, narrow ones included; a context manager."""

    def __init__(self, profile: Path, width: int, height: int, scheme: Literal["light", "dark"] = "light") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._address = f"http://127.0.0.1:{port}"
        options = {
            "args": [*FLAGS, f"--user-data-dir={profile}"],
            # Not the window's size: chromium makes no window narrower than 500 pixels.
            "mobileEmulation": {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1.5}},
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            self._wait()
            started = self._post("/session", {"capabilities": {"alwaysMatch": wanted}})
            self._address += f"/session/{started['sessionId']}"
            self.developer("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._send(urllib.request.Request(self._address, method="DELETE"))
        finally:
            self._stop()

    def open(self, page: Path) -> None:
        self._post("/url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401 - whatever JSON holds
        """What the body of a JavaScript function returns."""
        return self._post("/execute/sync", {"script": script, "args": arguments})

    def developer(self, command: str, **parameters: object) -> Any:  # noqa: ANN401
        """A command of chromium's DevTools."""
        return self._post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def console(self) -> list[str]:
        """What the page wrote to the console since the last call, errors of the page included."""
        return [f"{entry['level']}: {entry['message']}" for entry in self._post("/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        """The window as a PNG."""
        taken = self.developer("Page.captureScreenshot", format="png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self._send(urllib.request.Request(f"{self._address}/status"))
                return
            except OSError:
                if time.monotonic() > deadline or self._driver.poll() is not None:
                    raise
                time.sleep(0.05)

    def _post(self, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401
        request = urllib.request.Request(
            self._address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return self._send(request)

    @staticmethod
    def _send(request: urllib.request.Request) -> Any:  # noqa: ANN401
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=60) as answer:
            return json.loads(answer.read())["value"]

    def _stop(self) -> None:
        self._driver.terminate()
        try:
            self._driver.wait(10)
        except subprocess.TimeoutExpired:
            self._driver.kill()
