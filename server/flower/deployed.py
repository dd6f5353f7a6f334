"""The Flower ServerApp of a deployment: conducts the run whose folder it is told, from wherever that stands.

Its process may be killed at any moment. What is in the run folder is whole then, and the daemon has another process go
on, under a new Flower run.
"""

import logging
import math
import os
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from melfed.common import messages
from melfed.common.audit.log import AuditLog, configure_logging
from melfed.common.errors import RunError, StorageError
from melfed.common.export.signature import sign
from melfed.common.locks import only_one
from melfed.common.messages import DECLINED, IDENTITY, REFUSED
from melfed.common.process.aside import aside
from melfed.common.process.object_folder import ObjectFolder
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import load_tensors, save_tensors
from melfed.server.clinics.asked import ASKED, asked_study
from melfed.server.clinics.self_reports import Said, minutes, note_said, word, words
from melfed.server.config import ServerConfig, read_server
from melfed.server.federation.context import Conduct, completed, standing
from melfed.server.federation.observer import InState
from melfed.server.flower import channel as exchange
from melfed.server.flower.object_files import object_folder
from melfed.server.flower.reply_fetcher import received
from melfed.server.flower.superlink import CONFIG_VARIABLE, read_file
from melfed.server.report.page import write_report
from melfed.server.results.conclude import conclude, write_initial, write_learnt
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.names import run_path
from melfed.server.runs.request import read_request
from melfed.server.runs.state import CONDUCTED
from melfed.server.trackers import trackers_of
from melfed.server.trackers.tracking import Tracking

if TYPE_CHECKING:
    from melfed.server.federation.one_round import OneRound

HANDOVER_SECONDS = 15.0
"""How long a process waits for the one before it to end."""

POLL_SECONDS = 0.1
ROLL_CALL_SECONDS = 30.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the run that the run configuration names; without one, ask all clinics how they are, about a study."""
    configure_logging()
    logging.getLogger("flwr").propagate = False  # it has a handler of its own
    config = read_server(Path(os.environ[CONFIG_VARIABLE]))
    run = str(context.run_config.get("run", ""))
    if run.startswith(ASKED):
        roll_call(config, grid, asked_study(config, run))
    elif run:
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
    from melfed.server.results.card import write_card
    from melfed.server.results.solved import awaits_evaluation

    asked = read_request(folder.path)
    joins, finished = asked.joins, (folder.path / "summary.json").exists()
    # Its model is asked for; or its process was killed between its last file and its last word.
    if finished and not joins and (asked.delivers or not awaits_evaluation(folder)):
        with standing(folder, terms):
            write_report(folder)
            write_card(folder)
            aside(write_learnt, folder.path, _model_file(folder))
            _deliver(config, folder, terms, grid, asked.delivers)
        completed(folder, terms)
        return
    with standing(folder, terms):
        trackers = trackers_of(config.file.trackers)
    state = InState(folder.path)
    with Tracking(state, trackers) as tracking:
        _go_on(config, folder, terms, grid, tracking, state)


def _go_on(
    config: ServerConfig, folder: RunFolder, terms: Conduct, grid: Grid, tracking: Tracking, state: InState
) -> None:
    """Conduct what is left of a run: its rounds, or the clinics that join it later."""
    from melfed.server.federation.conductor import conductor
    from melfed.server.runs.request import change_request

    joins = read_request(folder.path).joins
    with standing(folder, terms):
        study = folder.study()
        tracking.follow(folder)
        # This process waits for clinics, for days perhaps, and never needs torch.
        model = _model_file(folder)
        aside(write_initial, study, config.weights_folder, model)
        initial = {name: np.asarray(tensor, np.float32) for name, tensor in load_tensors(model, summed=True)[0].items()}
        rounds = conductor(study)(study, folder, initial, terms, tracking.observer)
        del initial  # a round holds models enough
        model.unlink()
    channel = exchange.FlowerChannel(listening(grid, config.clinics_said, study.digest, object_folder(config.state)))
    if joins and study.federation.mode == "one_round":
        cast("OneRound", rounds).join(channel)
        change_request(folder.path, joins=())
        completed(folder, terms)
        return
    rounds.conduct(channel)
    with standing(folder, terms):
        outcome = rounds.outcome
        if outcome is None:
            raise RunError(f"{folder.path}: the rounds ended without a model; go on with --resume {folder.path.name}")
        model = _model_file(folder)
        save_tensors(model, outcome.models[""], {})
        state.doing("making the tables and the report")
        summary = aside(conclude, folder.path, replace(outcome, models={}), model, config.weights_folder)
        tracking.finished(summary)
        state.doing("sending the model to the clinics")
        _deliver(config, folder, terms, grid)
    completed(folder, terms)


def _deliver(config: ServerConfig, folder: RunFolder, terms: Conduct, grid: Grid, asked: Collection[str] = ()) -> None:
    """Send the finished model to the clinics that took part, as far as they are there, or to those asked for."""
    from melfed.server.federation.delivery import Delivery, Parcel
    from melfed.server.results.facts import facts_of
    from melfed.server.runs.request import change_request

    study, file = folder.study(), _model_file(folder)  # as `write_learnt` has left it
    learnt = {name: np.asarray(tensor, np.float32) for name, tensor in load_tensors(file, summed=True)[0].items()}
    file.unlink()
    key, certificate = read_file(config.certificate_key), read_file(config.certificate)
    parcel = Parcel(study, learnt, facts_of(folder))
    delivery = Delivery(folder, terms, parcel, partial(sign, key=key, certificate=certificate))
    heard = listening(grid, config.clinics_said, study.digest, object_folder(config.state))
    if asked:
        delivery.on_request(exchange.FlowerChannel(heard), asked)
        change_request(folder.path, delivers=())
    else:
        delivery.at_the_end(exchange.FlowerChannel(heard), [clinic.name for clinic in folder.summary().clinics])


def _model_file(folder: RunFolder) -> Path:
    """Return the file by which a model goes to and from the process that has torch; one that is left, a round drops."""
    try:
        folder.pending.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder.pending}: cannot be made: {error.strerror}; free space and try again") from None
    return folder.pending / "model.exchange"  # no clinic has a file of such a name


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


def listening(grid: Grid, said: Path, digest: str, folder: ObjectFolder | None = None) -> Grid:
    """Return the grid; what clinics say of themselves, asked about a study, is written down in a file.

    Args:
        grid: Flower's.
        said: the file.
        digest: of the study.
        folder: of SuperLink's objects.
    """
    return cast(Grid, Listening(received(grid, folder), said, digest))


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
        round_minutes=(told := minutes(identity.get("round_minutes"))),
        timed="" if told is None else digest,
    )


def roll_call(config: ServerConfig, grid: Grid, about: StudyProtocol | None = None) -> None:
    """Ask every clinic that is online to describe itself; `clinics-said.json` has the answers.

    A clinic says nothing without being asked about a study: this one, or that of the last run. They are asked for no
    run, so that a private study's clinics count nothing, and spend nothing.
    """
    last = _last_run(config) if about is None else None
    study = about or (last.study() if last else StudyProtocol())
    content = exchange.request(0, study, run="")
    nodes = dict.fromkeys(exchange.online(grid), "")
    terms = exchange.RequestTerms(ROLL_CALL_SECONDS)
    heard = listening(grid, config.clinics_said, study.digest, object_folder(config.state))
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
