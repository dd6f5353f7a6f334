"""A real headless Chromium, and a server of static files that hears of every request it makes, whoever to."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run --hide-scrollbars"
)
CONTRASTS = """
const light = colour => {
  const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = element => {
  for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (!colour.startsWith('rgba(')) return colour;
  }
};
const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
return arguments[0]
  .map(name => [name, document.querySelector(name)]).filter(([name, e]) => e)
  .map(([name, e]) => [name, ratio(light(getComputedStyle(e)[e.closest('svg') ? 'fill' : 'color']), light(ground(e)))]);
"""
"""Gives name and contrast of the first element of each selector that there is."""


@contextmanager
def started(*flags: str) -> Iterator[Any]:
    """Give a browser, with further flags; skips where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS.split(), *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


def show(browser: Any, address: str, width: int, scheme: str = "light") -> None:
    """Open a page in a window of so many pixels, in a light or dark scheme."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(address)


def until(browser: Any, script: str, seconds: float = 20) -> Any:
    """Wait until a script returns something true, and return that."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, seconds, poll_frequency=0.1).until(lambda one: one.execute_script(script))


@dataclass
class Site:
    """A folder that is served at `http://localhost:PORT`, as the proxy of a browser: it hears of all that it asks."""

    port: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def flags(self) -> tuple[str, ...]:
        """What sends every request of a browser here, those to this machine and those to others."""
        return f"--proxy-server=127.0.0.1:{self.port}", "--proxy-bypass-list=<-loopback>"

    @property
    def strangers(self) -> list[str]:
        """Requests for what is not of this site."""
        return [asked for asked in self.asked if not asked.startswith(f"GET {self.address}/")]


class _Handler(SimpleHTTPRequestHandler):
    extensions_map: ClassVar[dict[str, str]] = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def __init__(self, *args: Any, site: Site, **options: Any) -> None:
        self.site = site
        super().__init__(*args, **options)

    def do_GET(self) -> None:
        self.site.asked.append(f"GET {self.path}")
        if not self.path.startswith(self.site.address):
            self.send_error(502)
            return
        self.path = self.path.removeprefix(self.site.address)
        super().do_GET()

    def _refuse(self) -> None:
        self.site.asked.append(f"{self.command} {self.path}")
        self.send_error(502)

    do_POST = do_PUT = do_CONNECT = do_OPTIONS = do_HEAD = _refuse

    def log_message(self, *args: Any) -> None:
        """Nothing is written."""


@contextmanager
def served(folder: Path) -> Iterator[Site]:
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, site=site, directory=str(folder)))
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
