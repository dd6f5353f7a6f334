"""A headless Chromium driven by selenium, and a folder served to it, for benchmarks of pages."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from melfed.common.errors import RunError

FLAGS: Final = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


@contextmanager
def chromium(*flags: str, wait_seconds: float = 300) -> Iterator[Any]:
    """Give a browser with a fresh profile, with further flags; a script in it may take `wait_seconds`.

    Raises:
        RunError: no Chromium, no chromedriver, or no selenium here.
    """
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        raise RunError("no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)")
    try:
        from selenium import webdriver
    except ImportError:
        raise RunError("selenium is not installed here; pip install selenium") from None
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, *flags):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(wait_seconds)
    try:
        yield browser
    finally:
        browser.quit()


class _Handler(SimpleHTTPRequestHandler):
    """Gives out files without a word on the terminal, modules and WebAssembly under the types that browsers ask for."""

    extensions_map = {  # noqa: RUF012 (as the class above it has it)
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *args: Any) -> None:
        """Nothing is written."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback; give its address, without a slash at the end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
