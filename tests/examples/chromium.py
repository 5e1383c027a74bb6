"""Headless Chromium for tests, driven through its DevTools protocol over a pair of pipes: no package, no port."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)  # fmt: skip
SECONDS = 60


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """A browser of its own, with a fresh profile in ``folder``."""

    def __init__(self, program: str, folder: Path, *flags: str) -> None:
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()

        def take_their_places() -> None:  # the numbers that the browser expects
            ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read_commands, write_answers)]
            for place, end in enumerate(ends, start=3):
                os.dup2(end, place)

        self._process = subprocess.Popen(
            [program, *FLAGS, *flags, f"--user-data-dir={folder}"],
            pass_fds=(3, 4),
            preexec_fn=take_their_places,  # noqa: PLW1509  two system calls, no lock
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._rest = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def send(self, method: str, session: str | None = None, **parameters: Any) -> int:
        """A command whose answer nobody waits for -> its number."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        return self._number

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a command; what the browser reports meanwhile goes to ``events``."""
        number = self.send(method, session, **parameters)
        deadline = time.monotonic() + SECONDS
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])
            if "method" in answer:
                self.events.append(answer)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, *_ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            content = os.read(self._answers, 1 << 16) if ready else b""
            assert content, "the browser does not answer"
            self._rest += content
        text, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(text))


class Tab:
    """A page, its workers' requests included.

    Attributes:
        requests: addresses of everything that page and workers asked the network, the disk or memory for.
    """

    def __init__(self, browser: Chromium) -> None:
        self.browser = browser
        self._target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.call(f"{domain}.enable")
        self._watch_workers(self._session)

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self._target)
        self.browser.events.clear()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, self._session, **parameters)

    def _watch_workers(self, session: str) -> None:
        """A worker waits until its requests are listened to."""
        self.browser.send("Target.setAutoAttach", session, autoAttach=True, waitForDebuggerOnStart=True, flatten=True)

    def _handle_events(self) -> None:
        """Of those since the last call, note the requests, and let new workers go."""
        events, self.browser.events = self.browser.events, []
        for event in events:
            if event["method"] == "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])
            elif event["method"] == "Target.attachedToTarget" and event["params"]["waitingForDebugger"]:
                worker = event["params"]["sessionId"]
                self.browser.send("Network.enable", worker)
                self._watch_workers(worker)
                self.browser.send("Runtime.runIfWaitingForDebugger", worker)

    def open(self, address: str) -> None:
        self.requests.clear()
        self.call("Page.navigate", url=address)
        self.wait(f"location.href === {json.dumps(address)} && document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        self._handle_events()
        return result["result"].get("value")

    def choose_file(self, selector: str, path: Path) -> None:
        """Through the file picker of the input element."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def drop_file(self, selector: str, path: Path) -> None:
        """With the mouse, on the middle of the element."""
        place = self.evaluate(f"document.querySelector('{selector}').getBoundingClientRect().toJSON()")
        x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def wait(self, expression: str, good: Callable[[Any], bool] = bool) -> Any:
        """The first value of the expression that is true, or good."""
        deadline = time.monotonic() + SECONDS
        while not good(value := self.evaluate(expression)):
            assert time.monotonic() < deadline, (expression, value, self.evaluate("document.body.innerText"))
            time.sleep(0.02)
        return value
