"""Headless Chromium through its DevTools protocol, over two pipes: no port, no driver, no package.

`--remote-debugging-pipe` reads messages from descriptor 3 and writes them to descriptor 4, JSON ended by a NUL.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--remote-debugging-pipe",
)


def executable() -> str | None:
    """Where Chromium is, None where it is not."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab: commands go out, answers come back, events are kept."""

    def __init__(self, read: int, write: int, limit: float):
        self.read, self.write, self.limit = read, write, limit
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        self._buffer, self._number = b"", 0
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer. RuntimeError where it is refused."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                found: dict[str, Any] = answer["result"]
                return found
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        until = time.monotonic() + self.limit
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self.read], [], [], max(0.0, until - time.monotonic()))
            chunk = os.read(self.read, 1 << 20) if ready else b""
            if not chunk:
                raise TimeoutError(f"chromium said nothing for {self.limit} s" if not ready else "chromium went away")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def open(self, path: Path) -> None:
        """Opens a file and waits until it has loaded."""
        self.events.clear()
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression. RuntimeError where it throws."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def size(self, width: int, height: int = 900, *, mobile: bool = False) -> None:
        """Sets the viewport."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)

    def media(self, kind: str = "", **features: str) -> None:
        """Emulates a medium and features like prefers_color_scheme="dark"."""
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.send("Emulation.setEmulatedMedia", media=kind, features=listed)

    def press(self, key: str, code: int) -> None:
        """Presses a key on what has the focus."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, path: Path) -> None:
        """A PNG of the whole page."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def problems(self) -> list[str]:
        """Errors and warnings of the console, and requests for anything but files opened here."""
        self.run("new Promise((done) => setTimeout(done, 50))")  # lets late events arrive
        found = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]))
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(str(params["args"]))
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(str(params["entry"]))
            elif method == "Network.requestWillBeSent" and params.get("type") != "Document":
                found.append("request: " + params["request"]["url"])
        return found


@contextmanager
def chromium(path: str, *, limit: float = 60.0) -> Iterator[Page]:
    """Starts a browser with an empty profile and ends it, all its processes included."""
    to_read, to_write = os.pipe(), os.pipe()
    # Out of the way of 3 and 4, which they become in the child.
    theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (to_read[0], to_write[1])]
    ours = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (to_write[0], to_read[1])]
    for fd in (*to_read, *to_write):
        os.close(fd)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        log = os.path.join(profile, "log")
        actions = [
            (os.POSIX_SPAWN_DUP2, theirs[0], 3),
            (os.POSIX_SPAWN_DUP2, theirs[1], 4),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        command = [path, *FLAGS, f"--user-data-dir={profile}/data", "about:blank"]
        child = os.posix_spawn(path, command, dict(os.environ), file_actions=actions, setpgroup=0)
        for fd in theirs:
            os.close(fd)
        try:
            yield Page(*ours, limit)
        except (TimeoutError, BrokenPipeError) as problem:
            raise RuntimeError(f"{problem}; its log: {Path(log).read_text(errors='replace')[-2000:]}") from problem
        finally:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            for fd in ours:
                os.close(fd)
