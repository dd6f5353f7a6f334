"""`melfed-server study --rehearse`: asks clinics how long a round takes them, and proposes quorum and deadline."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from melfed.common.terminal.console import errors, output
from melfed.common.terminal.times import span

if TYPE_CHECKING:
    from melfed.common.study.protocol import StudyProtocol
    from melfed.server.clinics.self_reports import Said
    from melfed.server.config import ServerConfig

ASK_SECONDS = 60.0


def rehearse(config: "ServerConfig", path: Path, study: "StudyProtocol") -> None:
    """Ask the clinics about a sealed study, say what each told, and propose quorum and deadline.

    Args:
        config: the coordinator's.
        path: of the study, for the command that is proposed.
        study: sealed, so that its digest is what clinics have approved.

    Raises:
        ServiceError: the server does not run, or the clinics could not be asked.
        ServerConfigError: no clinic is approved.
    """
    from melfed.server.cli import status
    from melfed.server.cli.runs import chosen
    from melfed.server.clinics.self_reports import present, read_said
    from melfed.server.daemon.state import read_daemon_state
    from melfed.server.federation.rehearsal import propose

    names = chosen(config, None)
    online = {row.name for row in read_daemon_state(config).clinics if row.online}
    began = present()
    with errors.status("asking the clinics how long a round takes"):
        status.ask_clinics(config, ASK_SECONDS, study)
    said = {name: told for name, told in read_said(config.clinics_said).items() if told.at >= began}
    minutes: dict[str, int] = {}
    for name in names:
        told = said.get(name)
        if told is not None and told.timed == study.digest and told.round_minutes is not None:
            minutes[name] = told.round_minutes
            output.print(f"clinic {name}: a round takes {told.round_minutes} min at most", soft_wrap=True)
        else:
            why = _untold(told, online=name in online)
            errors.print(f"clinic {name}: {why}", style="yellow", markup=False, soft_wrap=True)
    proposal = propose(study.federation, minutes, len(names))
    if proposal is None:
        errors.print("no clinic has told how long a round takes: there is nothing to propose", style="yellow")
        return
    keys = {"quorum": proposal.quorum, "deadline_seconds": proposal.deadline_seconds}
    reasons = {"quorum": proposal.quorum_reason, "deadline_seconds": proposal.deadline_reason}
    for key, value in keys.items():
        output.print(f"proposed: federation.{key} {value:.12g}: {reasons[key]}", soft_wrap=True, markup=False)
    rounds = study.federation.rounds
    longest = span(60 * rounds * max(minutes.values()))
    many = "1 round takes" if rounds == 1 else f"{rounds} rounds take"
    output.print(f"{many} {longest} at most, by what was told", soft_wrap=True)
    _tell_how(path, study, keys)


def _untold(told: "Said | None", *, online: bool) -> str:
    """Return why a clinic's figure is not known."""
    if told is None:
        return "did not answer" if online else "is offline"
    if told.reason:
        return f"takes no part: {told.reason}"
    return "does not tell how long a round takes (tell.round_time, or its approval was not timed)"


def _tell_how(path: Path, study: "StudyProtocol", keys: Mapping[str, float]) -> None:
    """Print the command that seals the study with what is proposed, unless it has that already."""
    changed = {key: value for key, value in keys.items() if getattr(study.federation, key) != value}
    if not changed:
        output.print("the study has these values already")
        return
    sets = " ".join(f"--set federation.{key}={value:.12g}" for key, value in changed.items())
    output.print("They are in the digest: seal the study anew, and let the clinics approve that.")
    output.print(f"melfed-server study {path} {sets} --out SEALED.yaml", soft_wrap=True, markup=False)
