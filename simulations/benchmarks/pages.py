"""A long federation on the live page and in the report: 50 clinics, 1,000 rounds.

    python -m melfed.simulations.benchmarks.pages [--clinics 50] [--rounds 1000] [--json]

Writes a made-up run as a server writes one, opens the live page in headless Chromium (selenium), and writes the report.
`paint_s` is the browser's first contentful paint, `clinics_s` when the table of clinics stands, `rounds_s` when all
rounds do, both from the start of the navigation; `report_s` is the time of `write_report`, `report_mb` the page's size.
The live page is opened twice: first by a server that has read nothing yet.
"""

import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from melfed.common.locks import only_one
from melfed.common.metrics.histogram import ScoreHistogram, total
from melfed.common.page.access import Access
from melfed.common.page.app import page_app
from melfed.common.page.serve import Listening, PageServer
from melfed.common.study.protocol import FederationSpec, StudyProtocol
from melfed.server.config import ServerConfig, ServerFile
from melfed.server.daemon.state import ClinicRow, DaemonState, write_daemon_state
from melfed.server.page.view import ServerPage
from melfed.server.report.page import write_report
from melfed.server.results.evaluate import summarise
from melfed.server.results.finalize import told_data
from melfed.server.runs.counts import Counts
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.server.runs.request import queue_run
from melfed.server.runs.state import change_state
from melfed.simulations.benchmarks.browser import chromium
from melfed.simulations.benchmarks.deployment_stack import free_ports

WAIT_SECONDS = 120.0
IMAGES = 80  # of a clinic's validation or test part
DIFFERENT = 10  # validations; the others repeat them, which costs their readers the same
PAINT = "return performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)[0]"
ROWS = "return document.querySelectorAll('#{part} tbody tr').length === {rows}"


def write_run(config: ServerConfig, clinics: int, rounds: int) -> RunFolder:
    """Write a run as a server does, with its events, state and daemon."""
    names = [f"clinic-{number:03}" for number in range(clinics)]
    study = StudyProtocol(name="long", federation=FederationSpec(rounds=rounds))
    folder = queue_run(config.runs / "long", study, names, [])
    rng = np.random.default_rng(0)
    written: list[dict[str, Any]] = []
    for number in range(1, rounds + 1):
        away, there = names[: number % 5], names[number % 5 :]
        declined = dict.fromkeys(away, "the policy allows 3 runs of this study")
        event = {"event": "round", "round": number, "train_loss": 1 / number, "seconds": 3.2, "answered": there}
        told = {name: {"train_loss": 1 / number, "weight": 300.0, "bytes_up": 10_000} for name in there}
        folder.append(event | {"failed": {}, "declined": declined, "bytes_up": 1, "bytes_down": 1, "clinics": told})
        if number <= DIFFERENT:
            parts = {name: _scores(rng, 1.8 - 1.2 / number, name) for name in there}
            folder.append_validation(number, total(list(parts.values())), parts)
            written = [event for event in folder.events() if event["event"] == "validation"]
        else:
            folder.append({**written[number % DIFFERENT], "round": number})
    change_state(folder.path, status="running", round=rounds, doing=f"round {rounds + 1}: 3 of {clinics} have answered")
    rows = tuple(ClinicRow(name=name, online=True, since="2026-01-01T00:00:00+00:00") for name in names)
    write_daemon_state(config.daemon_state, DaemonState(pid=1, started="", clinics=rows))
    _finish(folder, study, {name: _scores(rng, 1.7, name) for name in names})
    return folder


def _scores(rng: np.random.Generator, skill: float, clinic: str) -> ScoreHistogram:
    targets = (rng.random(IMAGES) < 0.15).astype(int)
    logits = rng.normal(-2.0 + skill * targets, 1.0)
    return ScoreHistogram.from_scores(logits, targets, [f"{clinic}-{n}" for n in range(IMAGES)])


def _finish(folder: RunFolder, study: StudyProtocol, test: dict[str, ScoreHistogram]) -> None:
    numbers = {f"{part}_{what}": IMAGES for part in ("train", "validation", "test") for what in ("images", "groups")}
    numbers |= {f"{part}_positives": IMAGES // 7 for part in ("train", "validation", "test")}
    counts = {name: Counts(numbers=numbers) for name in test}
    outcome = Outcome(models={}, clinics=counts, test=test)
    folder.write_outcome(outcome)
    folder.write_summary(summarise(study, folder, told_data(study, counts), outcome, 3200.0, "cpu"))


def measure_page(config: ServerConfig, clinics: int, rounds: int) -> dict[str, float]:
    """Return seconds until the page is painted, and until clinics and all rounds stand on it."""
    at = Listening("127.0.0.1", next(iter(free_ports(1))))
    listens = threading.Event()
    server = PageServer(page_app(ServerPage(config), Access(None, True, at.port)), at, listens.set)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        listens.wait(WAIT_SECONDS)
        return _in_browser(at.url, clinics, rounds)
    finally:
        server.should_exit = True
        thread.join()


def _in_browser(url: str, clinics: int, rounds: int) -> dict[str, float]:
    from selenium.webdriver.support.wait import WebDriverWait

    with chromium() as browser:
        browser.get("about:blank")
        began = time.monotonic()
        browser.get(url)
        waiting = WebDriverWait(browser, WAIT_SECONDS, poll_frequency=0.02)
        found = {}
        for part, rows in (("clinics", clinics), ("rounds", rounds)):
            script = ROWS.format(part=part, rows=rows)
            waiting.until(lambda one, script=script: one.execute_script(script))  # type: ignore[misc]
            found[f"{part}_s"] = time.monotonic() - began
        return {"paint_s": waiting.until(lambda one: one.execute_script(PAINT)) / 1000, **found}


def measure_report(folder: RunFolder) -> dict[str, float]:
    """Return seconds and size of the report."""
    began = time.monotonic()
    page = write_report(folder)
    return {"report_s": time.monotonic() - began, "report_mb": page.stat().st_size / 1e6}


def measure(place: Path, clinics: int, rounds: int) -> dict[str, Any]:
    """Return all figures; `place` is an empty folder."""
    config = ServerConfig(place / "server.yaml", ServerFile(name="long"))
    config.state.mkdir()
    folder = write_run(config, clinics, rounds)
    with only_one(config.daemon_lock, "the benchmark"):
        pages = [measure_page(config, clinics, rounds) for _ in range(2)]
    return {"clinics": clinics, "rounds": rounds, "live": pages, **measure_report(folder)}


def main(
    clinics: Annotated[int, typer.Option(min=6)] = 50,
    rounds: Annotated[int, typer.Option(min=1)] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure the live page and the report of a long federation."""
    with tempfile.TemporaryDirectory(prefix="melfed-pages-") as place:
        found = measure(Path(place), clinics, rounds)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for number, page in enumerate(found["live"], start=1):
        words = ", ".join(f"{name.removesuffix('_s')} {seconds:.2f} s" for name, seconds in page.items())
        sys.stdout.write(f"live page, opened for the {'first' if number == 1 else 'second'} time: {words}\n")
    sys.stdout.write(f"report: {found['report_s']:.2f} s, {found['report_mb']:.2f} MB\n")


if __name__ == "__main__":
    typer.run(main)
