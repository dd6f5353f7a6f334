"""What the coordinator's live page shows: what `status`, `log` and the runs' folders tell, and nothing else."""

import threading
from importlib.metadata import version
from typing import Any

from melfed.common.errors import MelfedError
from melfed.common.page.app import Sections
from melfed.common.page.audit import LastRecords, finite
from melfed.server.config import ServerConfig
from melfed.server.federation.members import told_accounts
from melfed.server.page.rounds import ClinicRounds, RunRounds
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import ReportedAccount
from melfed.server.runs.request import read_request
from melfed.server.status import ClinicStatus, RunStatus, ServerStatus, server_status

LISTED_RUNS = 50
UNDER_WAY = ("running", "queued")


class ServerPage:
    """Looks at a coordinator's files; reads alone."""

    package = "melfed.server.page"

    def __init__(self, config: ServerConfig) -> None:
        """Nothing is read yet."""
        self._config = config
        self._log = LastRecords({config.audit_log: ""})
        self._rounds: dict[str, RunRounds] = {}
        self._about: dict[str, dict[str, Any]] = {}
        self._busy = threading.Lock()

    def look(self, chosen: str) -> Sections:
        """Return all parts; `chosen` names a run, else the newest one that is under way, or the newest, is shown.

        Raises:
            MelfedError, OSError: something cannot be read.
        """
        with self._busy:
            found = server_status(self._config)
            run = _shown(found, chosen)
            rounds, reading = self._rounds_of(run)
            accounts = told_accounts(self._config.runs / run.name / "members.json") if run else {}
            of_run = rounds.clinics if rounds else {}
            return {
                "server": self._server(found),
                "clinics": [_clinic(row, run, of_run.get(row.name), accounts.get(row.name)) for row in found.clinics],
                "runs": [row.model_dump(mode="json") for row in found.runs[::-1][:LISTED_RUNS]],
                "run": self._run(run),
                "events": self._log.look(),
                "reading": reading,
                **(rounds.parts() if rounds else {}),
            }

    def _server(self, found: ServerStatus) -> dict[str, Any]:
        return {
            "name": self._config.file.name,
            "melfed": version("melfed"),
            "running": found.running,
            "children": [child.model_dump(mode="json") for child in found.children],
            "problems": list(found.problems),
        }

    def _rounds_of(self, run: RunStatus | None) -> tuple[RunRounds | None, bool]:
        if run is None or run.status == "damaged":
            return None, False
        folder = RunFolder(self._config.runs / run.name)
        rounds = self._rounds.setdefault(f"{run.name} {run.identity}", RunRounds(folder))
        return rounds, rounds.look()

    def _run(self, run: RunStatus | None) -> dict[str, Any] | None:
        if run is None:
            return None
        key = f"{run.name} {run.identity}"
        if key not in self._about:
            self._about[key] = _about(RunFolder(self._config.runs / run.name))
        return {**run.model_dump(mode="json"), **self._about[key]}


def _about(folder: RunFolder) -> dict[str, Any]:
    """Return what stays as it is as long as a run goes on: its clinics, and the ε that its study states."""
    about: dict[str, Any] = {"asks": [], "private": False, "epsilon": None, "delta": None, "unit": None}
    try:
        about["asks"] = list(read_request(folder.path).clinics)
        privacy = folder.study().privacy
    except MelfedError:  # the run's own line says what is wrong with it
        return about
    if privacy is not None:
        told = {"epsilon": privacy.epsilon, "delta": privacy.delta, "unit": privacy.unit}
        about |= {"private": True, **told}
    return about


def _shown(found: ServerStatus, chosen: str) -> RunStatus | None:
    """Return the run that is named; else the newest one that is under way, else the newest."""
    newest = found.runs[::-1]
    named = [run for run in newest if run.name == chosen] if chosen else []
    under_way = [run for run in newest if run.status in UNDER_WAY]
    return next(iter([*named, *under_way, *newest]), None)


def _clinic(
    row: ClinicStatus, run: RunStatus | None, rounds: ClinicRounds | None, account: ReportedAccount | None
) -> dict[str, Any]:
    """Return one clinic: how it is, what it said of itself, and what it did in the run that is shown."""
    content = row.model_dump(mode="json")
    digest = run.digest if run else ""
    if row.approved is None:
        content["approves"] = None
    else:
        content["approves"] = bool({digest, "any"} & set(row.approved))
    content["approved"] = None if row.approved is None else len(row.approved)
    content["budget"] = finite(row.budget)
    content["rounds"] = rounds.as_json() if rounds else None
    content["account"] = {"epsilon": finite(account.epsilon)} if account else None
    return content
