"""Chromium over the DevTools protocol, by its pipe: no port is opened, and no library is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pwd
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
CHROMIUM = "/usr/bin/chromium"
USER = "nobody"
"""Whom Chromium runs as when the tests are root: as root it refuses its sandbox."""
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--accept-lang=pt-BR",
    "--no-proxy-server",
    # No name leads anywhere but to this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.*",
)
ANSWER_S = 30.0


class BrowserError(Exception):
    """The browser refused a command, or something did not come about in time."""


def wait(what: str, check: Callable[[], T | None], timeout_s: float = 10.0) -> T:
    """What `check` gives as soon as it is true. Raises BrowserError after `timeout_s` seconds."""
    until = time.monotonic() + timeout_s
    while not (found := check()):
        if time.monotonic() > until:
            raise BrowserError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.05)
    return found


class Browser:
    """One headless Chromium with a profile of its own; a context manager."""

    def __init__(self, *more: str) -> None:
        self._profile = tempfile.mkdtemp(prefix="wms-chromium.")
        user = pwd.getpwnam(USER) if os.geteuid() == 0 else None
        if user:
            os.chown(self._profile, user.pw_uid, user.pw_gid)
        # Chromium reads commands from descriptor 3 and writes answers to 4, each ended by a zero byte.
        command_read, self._write = os.pipe()
        self._read, answer_write = os.pipe()
        # sh moves the two to their places; after that the wanted numbers cannot collide with the given ones.
        script = f'exec 13<&{command_read} 14>&{answer_write}; exec 3<&13 4>&14 13<&- 14>&-; exec "$@"'
        sandbox = [] if _sandbox() else ["--no-sandbox"]
        self._log = open(f"{self._profile}/chromium.log", "wb")  # noqa: SIM115
        self._process = subprocess.Popen(
            [
                "bash",
                "-c",
                script,
                "chromium",
                CHROMIUM,
                *FLAGS,
                *sandbox,
                *more,
                f"--user-data-dir={self._profile}/profile",
                "about:blank",
            ],
            pass_fds=(command_read, answer_write),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env={"HOME": self._profile, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TMPDIR": self._profile},
            cwd="/",
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
        )
        os.close(command_read)
        os.close(answer_write)
        self._number = 0
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._listeners: list[Callable[[str, str, dict[str, Any]], None]] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(BrowserError, OSError):
            self.call("Browser.close", timeout_s=5)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait(10)
        os.close(self._write)
        self._log.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        session: str = "",
        timeout_s: float = ANSWER_S,
    ) -> dict[str, Any]:
        """One command; returns its result. Raises BrowserError when it is refused or not answered."""
        waiting: queue.Queue[dict[str, Any]] = queue.Queue(1)
        with self._lock:
            self._number += 1
            number = self._number
            self._answers[number] = waiting
            message: dict[str, Any] = {"id": number, "method": method, "params": dict(params or {})}
            if session:
                message["sessionId"] = session
            text = json.dumps(message).encode() + b"\0"
            while text:
                text = text[os.write(self._write, text) :]
        try:
            answer = waiting.get(timeout=timeout_s)
        except queue.Empty:
            log = Path(f"{self._profile}/chromium.log").read_text(errors="replace")[-2000:]
            raise BrowserError(f"{method} was not answered within {timeout_s:g} s; Chromium: {log}") from None
        finally:
            del self._answers[number]
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error'].get('message')}")
        found: dict[str, Any] = answer["result"]
        return found

    def listen(self, listener: Callable[[str, str, dict[str, Any]], None]) -> None:
        """Have `listener(session, method, params)` called with every event, in the reading thread."""
        self._listeners.append(listener)

    @contextlib.contextmanager
    def page(
        self, *, width: int = 1280, height: int = 800, dark: bool = False, touch: bool = False
    ) -> Iterator[Page]:
        """A tab in a context of its own: nothing stored, no service worker."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", {"url": "about:blank", "browserContextId": context})[
            "targetId"
        ]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        try:
            yield Page(self, session, width, height, dark, touch)
        finally:
            self.call("Target.disposeBrowserContext", {"browserContextId": context})

    def _listen(self) -> None:
        rest = b""
        while chunk := os.read(self._read, 1 << 20):
            *messages, rest = (rest + chunk).split(b"\0")
            for text in messages:
                message = json.loads(text)
                if "id" in message:
                    waiting = self._answers.get(message["id"])
                    if waiting is not None:
                        waiting.put(message)
                    continue
                for listener in self._listeners:
                    listener(message.get("sessionId", ""), message["method"], message.get("params", {}))
        os.close(self._read)


class Page:
    """One tab. What went wrong in it is in `errors`, the addresses that it asked for in `asked`."""

    def __init__(
        self, browser: Browser, session: str, width: int, height: int, dark: bool, touch: bool
    ) -> None:
        self._browser, self._session = browser, session
        self.errors: list[str] = []
        self.asked: list[str] = []
        browser.listen(self._event)
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height, touch=touch)
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setLocaleOverride", locale="pt-BR")
        self.call("Emulation.setTimezoneOverride", timezoneId="America/Sao_Paulo")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command to this tab."""
        return self._browser.call(method, params, self._session)

    def resize(self, width: int, height: int, *, touch: bool = False) -> None:
        """A screen of this size; a handheld's has two device pixels for each of the page's."""
        scale = 2 if touch else 1
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=touch,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)

    def before(self, script: str) -> None:
        """Run `script` in every document before anything else."""
        self.call("Page.addScriptToEvaluateOnNewDocument", source=script)

    def open(self, url: str) -> None:
        """Go to `url`, and wait until the document has loaded."""
        answer = self.call("Page.navigate", url=url)
        if answer.get("errorText"):
            raise BrowserError(f"{url}: {answer['errorText']}")
        self.until("document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited. Raises BrowserError when it throws."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if details := answer.get("exceptionDetails"):
            text = details.get("exception", {}).get("description") or details.get("text")
            raise BrowserError(f"{expression[:200]}: {text}")
        return answer["result"].get("value")

    def until(self, expression: str, timeout_s: float = 10.0) -> Any:
        """Wait until an expression is true; returns its value."""

        def check() -> Any:
            try:
                # An element would come as an empty object, which is not true.
                return self.run(f"(async (found) => found instanceof Node || await found)({expression})")
            except BrowserError:
                # The document may just be replaced by the next one.
                return None

        try:
            return wait(expression, check, timeout_s)
        except BrowserError as error:
            raise BrowserError(
                f"{error}\nthe page says: {self.text()[:1500]}\nerrors: {self.errors}"
            ) from None

    def says(self, text: str, timeout_s: float = 10.0) -> None:
        """Wait until the page shows a text."""
        self.until(f"document.body.innerText.includes({json.dumps(text)})", timeout_s)

    def text(self) -> str:
        """All that the page shows."""
        return str(self.run("document.body ? document.body.innerText : ''"))

    def click(self, selector: str, text: str = "") -> None:
        """Click the first element that matches and contains `text`, as a mouse would: where it is on the screen."""
        find = (
            f"[...document.querySelectorAll({json.dumps(selector)})]"
            f".find((each) => each.textContent.includes({json.dumps(text)}))"
        )
        place = self.until(
            f"(() => {{ const each = {find}; if (!each || each.disabled) return null;"
            "each.scrollIntoView({block: 'nearest'}); const box = each.getBoundingClientRect();"
            "return {x: box.x + box.width / 2, y: box.y + box.height / 2}; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def key(self, name: str, *, shift: bool = False) -> None:
        """Press and release one named key."""
        codes = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, ""), " ": (32, " ")}
        code, text = codes[name]
        common = {"key": name, "code": name, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.call(
            "Input.dispatchKeyEvent",
            type="keyDown" if text else "rawKeyDown",
            **common,
            **({"text": text} if text else {}),
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str, *, enter: bool = False) -> None:
        """Type into whatever has the focus, key by key as a scanner does."""
        for character in text:
            self.call("Input.dispatchKeyEvent", type="keyDown", text=character, key=character)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=character)
        if enter:
            self.key("Enter")

    def screenshot(self, path: Path, *, full: bool = False) -> None:
        """A PNG of the screen, or of the whole page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _event(self, session: str, method: str, params: dict[str, Any]) -> None:
        if session != self._session:
            return
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(
                " ".join(str(each.get("value", each.get("description"))) for each in params["args"])
            )
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])


def _sandbox() -> bool:
    """Whether Chromium can build its sandbox here: it needs user namespaces, or its setuid helper."""
    helper = Path("/usr/lib/chromium/chrome-sandbox")
    if helper.exists() and helper.stat().st_mode & 0o4000:
        return True
    probe = subprocess.run(["unshare", "--user", "true"], capture_output=True, timeout=10, user=_nobody())
    return probe.returncode == 0


def _nobody() -> int | None:
    return pwd.getpwnam(USER).pw_uid if os.geteuid() == 0 else None
