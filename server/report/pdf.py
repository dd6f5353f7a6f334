"""`report.pdf`: the report printed, by Chromium where it is installed, else by WeasyPrint."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from melfed.common.errors import ServiceError, StorageError
from melfed.common.files import atomic_write

NAME: Final = "report.pdf"
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 180
NEITHER: Final = (
    "neither Chromium nor WeasyPrint is installed, and one of them prints the report: apt-get install chromium, or "
    "pip install 'melfed[pdf]'"
)
_FLAGS: Final = (
    "--headless=new",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
)
_COLOUR: Final = re.compile(r"var\(--([a-z-]+)\)")
_STATED: Final = re.compile(r"--([a-z-]+): (#[0-9a-f]{3,8})")


def write_pdf(report: Path) -> Path:
    """Print a report beside itself, and return the path. It loads nothing, and neither does its printing.

    Raises:
        ServiceError: no program that prints is installed, or it failed.
        StorageError: there is no report, or the file cannot be written.
    """
    if not report.is_file():
        raise StorageError(f"{report}: there is no such report; write it with melfed-server report")
    printed = _printer()(report)
    path = report.with_name(NAME)
    with atomic_write(path) as file:
        file.write(printed)
    return path


def _printer() -> Callable[[Path], bytes]:
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is not None:
        return lambda report: _by_browser(browser, report)
    try:
        import weasyprint  # noqa: F401
    except (ImportError, OSError):  # not installed, or without the libraries that it draws with
        raise ServiceError(NEITHER) from None
    return _by_weasyprint


def _by_browser(browser: str, report: Path) -> bytes:
    """Print in a browser of its own, which knows nobody's profile; in a folder that this user alone reads."""
    with TemporaryDirectory(prefix="melfed-pdf-") as place:
        out = Path(place, NAME)
        # Chromium's own sandbox refuses root, who has nothing that it would keep from the page.
        flags = [*_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else []), f"--user-data-dir={place}/profile"]
        command = [browser, *flags, "--no-pdf-header-footer", f"--print-to-pdf={out}", report.resolve().as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)  # noqa: S603
            return out.read_bytes()
        except subprocess.TimeoutExpired:
            raise ServiceError(f"{browser}: did not print {report} within {SECONDS} s") from None
        except FileNotFoundError:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise ServiceError(f"{browser}: printed nothing: {lines[-1] if lines else 'no reason given'}") from None


def _by_weasyprint(report: Path) -> bytes:
    """Print by WeasyPrint, in the light colours: in drawings it knows no names of colours."""
    from weasyprint import HTML

    made = HTML(string=with_colours(report.read_text(encoding="utf-8"))).write_pdf()
    if not isinstance(made, bytes):
        raise ServiceError(f"{report}: WeasyPrint made nothing of it")
    return made


def with_colours(page: str) -> str:
    """Return a page whose drawings have the colours that its style sheet states first, in place of their names."""
    head, _, body = page.partition("</style>")
    stated: dict[str, str] = {}
    for name, colour in _STATED.findall(head):
        stated.setdefault(name, colour)
    return f"{head}</style>{_COLOUR.sub(lambda found: stated.get(found[1], found[0]), body)}"
