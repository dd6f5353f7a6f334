"""The Flower ServerApp of a deployment: conducts the run whose folder it is told, from wherever that stands.

Its process may be killed at any moment. What is in the run folder is whole then, and the daemon has another process go
on, under a new Flower run.
"""

import logging
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from melfed.common import messages
from melfed.common.audit.log import AuditLog, configure_logging
from melfed.common.errors import RunError
from melfed.common.locks import only_one
from melfed.common.messages import DECLINED, IDENTITY, REFUSED
from melfed.common.study.protocol import StudyProtocol
from melfed.server.clinics.self_reports import Said, note_said, word, words
from melfed.server.config import ServerConfig, read_server
from melfed.server.federation.context import Conduct, completed, standing
from melfed.server.federation.observer import Silent
from melfed.server.flower import channel as exchange
from melfed.server.flower.reply_fetcher import received
from melfed.server.flower.superlink import CONFIG_VARIABLE
from melfed.server.report.page import write_report
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.names import run_path
from melfed.server.runs.request import read_request
from melfed.server.runs.state import CONDUCTED

HANDOVER_SECONDS = 15.0
"""How long a process waits for the one before it to end."""

POLL_SECONDS = 0.3
ROLL_CALL_SECONDS = 30.0
AT_CLINICS = "the clinics' own"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the run that the run configuration names; without a name, only ask all clinics how they are."""
    configure_logging()
    logging.getLogger("flwr").propagate = False  # it has a handler of its own
    config = read_server(Path(os.environ[CONFIG_VARIABLE]))
    run = str(context.run_config.get("run", ""))
    if run:
        conduct_run(config, run, grid, context.run_id)
    else:
        roll_call(config, grid)


def conduct_run(config: ServerConfig, run: str, grid: Grid, flower_run: int) -> None:
    """Conduct a run to its end: rounds, final evaluation, model, summary, report.

    Args:
        config: the coordinator's.
        run: name of the run folder.
        grid: reaches the clinics.
        flower_run: Flower's number for this attempt.

    Raises:
        RunError: there is no such run, or it is damaged.
        ServiceError: another process conducts it.
        MelfedError: as `melfed.server.federation.rounds.Rounds.conduct` and `melfed.server.results.finalize.finish`;
        `state.json` says so.
    """
    path = run_path(config, run)
    with only_one(path / CONDUCTED, f"run {run} is conducted", HANDOVER_SECONDS):
        folder, request = RunFolder.open(path), read_request(path)
        terms = Conduct(
            expected=frozenset(request.joins or request.clinics),
            poll_seconds=POLL_SECONDS,
            deployed=True,
            version=version("melfed"),
            audit=AuditLog(config.audit_log, "serverapp"),
            flower_run=flower_run,
        )
        _conduct(config, folder, terms, grid)


def _conduct(config: ServerConfig, folder: RunFolder, terms: Conduct, grid: Grid) -> None:
    from melfed.common.model.classifier import trainable_tensors
    from melfed.common.study.build import build_study_classifier
    from melfed.server.federation.conductor import conductor
    from melfed.server.federation.one_round import OneRound
    from melfed.server.results.finalize import Finished, finish, told_data
    from melfed.server.results.solved import awaits_evaluation
    from melfed.server.runs.request import change_request
    from melfed.server.runs.summary import PublicData

    joins = read_request(folder.path).joins
    finished = (folder.path / "summary.json").exists()
    if finished and not joins and not awaits_evaluation(folder):  # killed between its last file and its last word
        with standing(folder, terms):
            write_report(folder)
        completed(folder, terms)
        return
    with standing(folder, terms):
        study = folder.study()
        model = build_study_classifier(study, config.weights_folder)
        rounds = conductor(study)(study, folder, trainable_tensors(model), terms, Silent())
    channel = exchange.FlowerChannel(listening(grid, config.clinics_said, study.digest))
    if joins and isinstance(rounds, OneRound):
        rounds.join(channel)
        change_request(folder.path, joins=())
        completed(folder, terms)
        return
    rounds.conduct(channel)
    with standing(folder, terms):
        outcome = rounds.outcome
        if outcome is None:
            raise RunError(f"{folder.path}: the rounds ended without a model; go on with --resume {folder.path.name}")
        data = told_data(study, outcome.clinics)
        used = PublicData(study=study.name, digest=study.digest, images=data.images, sources=tuple(outcome.clinics))
        seconds = time.time() - (folder.path / "run-id").stat().st_mtime
        choices = read_request(folder.path).choices
        done = Finished(study, model, outcome, data, used, seconds, AT_CLINICS, choices, (), config.weights_folder)
        finish(folder, done)
    completed(folder, terms)


class Listening:
    """Flower's grid; what clinics say of themselves is written down as it passes by."""

    def __init__(self, grid: Grid, said: Path, digest: str) -> None:
        self._grid, self._said, self._digest = grid, said, digest

    def __getattr__(self, name: str) -> Any:
        """Everything else is the grid's own."""
        return getattr(self._grid, name)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return what has arrived for these messages."""
        messages = list(self._grid.pull_messages(message_ids))
        told = [message for message in messages if _identity(message)]
        if told:
            names = {info.node_id: info.name for info in self._grid.get_nodes()}
            for message in told:
                if name := names.get(message.metadata.src_node_id):
                    note_said(self._said, name, said_in(message, self._digest))
        return messages


def listening(grid: Grid, said: Path, digest: str) -> Grid:
    """Return the grid; what clinics say of themselves, asked about a study, is written down in a file."""
    return cast(Grid, Listening(received(grid), said, digest))


def _identity(message: Message) -> dict[str, Any] | None:
    found = None if message.has_error() else message.content.config_records.get(IDENTITY)
    return None if found is None else dict(found)


def said_in(message: Message, digest: str) -> Said:
    """Return what a clinic says of itself in its answer about a study."""
    identity = _identity(message) or {}
    records = message.content.config_records
    reasons = [record.get("reason", "") for kind in (DECLINED, REFUSED) if (record := records.get(kind))]
    budget = identity.get("budget")
    known = isinstance(budget, int | float) and math.isfinite(budget)
    return Said(
        version=word(identity.get("version", "")),
        approved=words(identity["approved"]) if "approved" in identity else None,
        budget=float(budget) if known and budget is not None else None,
        reason=exchange.one_line(str(reasons[0])) if reasons else "",
        declined=digest if DECLINED in records else "",
    )


def roll_call(config: ServerConfig, grid: Grid) -> None:
    """Ask every clinic that is online to describe itself; `clinics-said.json` has the answers.

    They are asked about the study of the last run, since a clinic says nothing without being asked about one; but for
    no run, so that a private study's clinics count nothing, and spend nothing.
    """
    last = _last_run(config)
    study = last.study() if last else StudyProtocol()
    content = exchange.request(0, study, run="")
    nodes = dict.fromkeys(exchange.online(grid), "")
    terms = exchange.RequestTerms(ROLL_CALL_SECONDS)
    heard = listening(grid, config.clinics_said, study.digest)
    for _ in exchange.ask(heard, messages.DESCRIBE, nodes, content, terms, _Patient()):
        pass


def _last_run(config: ServerConfig) -> RunFolder | None:
    folders = sorted(config.runs.glob("*/study.yaml"), key=lambda path: path.stat().st_mtime, reverse=True)
    return RunFolder(folders[0].parent) if folders else None


@dataclass(frozen=True)
class _Patient:
    """Whoever asks for a roll-call waits for all that are there."""

    def wait(self) -> None:
        time.sleep(POLL_SECONDS)

    def enough(self) -> bool:
        return False

    def lost(self, node: int, reason: str) -> None:
        pass

    def returned(self, node: int) -> None:
        pass
