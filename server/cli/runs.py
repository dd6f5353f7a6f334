"""Commands of `melfed-server` about runs: study, run, stop."""

import math
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from melfed.common.errors import RunError, ServerConfigError, ServiceError, StudyError
from melfed.common.terminal.console import NOTICE, errors, output
from melfed.server.cli.options import ConfigOption, configuration, own_configuration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melfed.common.study.protocol import StudyProtocol
    from melfed.common.study.recipe import Choice
    from melfed.server.cli.follow import Tail
    from melfed.server.clinics.self_reports import Said
    from melfed.server.config import ServerConfig
    from melfed.server.runs.folder import RunFolder
    from melfed.server.runs.state import RunState

Overrides = Annotated[list[str], typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a key of the study.")]
INTERRUPTED = 130
READABLE = 0o644
ASK_SECONDS = 30.0
"""Longest that clinics are asked whether they take part, before a run is queued."""


def study(
    path: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Study protocol.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Where the sealed study is written.", show_default=False)] = None,
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
    rehearse: Annotated[
        bool,
        typer.Option("--rehearse", help="Ask the clinics how long a round takes; propose quorum and deadline."),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Seal a study, so that clinics can approve it: choose what its recipe leaves open, and fix its weights' digest.

    Clinics time a step when they approve a study. With --rehearse those that have approved it are asked for that.
    """
    from melfed.common.files import atomic_write
    from melfed.common.study.file import study_yaml

    server = own_configuration(config) if rehearse else configuration(config)
    sealed, _ = _sealed(path, overrides, server)
    if out is not None:
        with atomic_write(out, READABLE) as file:  # whoever sends it to the clinics is another user than the server's
            file.write(study_yaml(sealed.with_changes("model", weights=None)).encode())
        errors.print(f"sealed study: {out}; send it to the clinics, who approve it with melfed-client approve")
    elif not rehearse:
        errors.print("note: nothing written; --out FILE makes what clinics approve", style="yellow")
    if rehearse:
        from melfed.server.cli.rehearsal import rehearse as ask

        ask(server, path, sealed.with_changes("model", weights=None))
    else:
        _tell_who_is_waited_for(server, sealed)
    _tell_who_is_trusted(sealed)
    _tell_how_many_to_test_on(server, sealed)
    output.print(sealed.digest, soft_wrap=True)


def run(
    path: Annotated[
        Path | None, typer.Argument(metavar="[STUDY.yaml]", help="Study protocol.", show_default=False)
    ] = None,
    clinics: Annotated[
        str | None, typer.Option(help="Names of the clinics, with commas.", show_default="all approved clinics")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Name of a run to go on with, or to follow.", show_default=False)
    ] = None,
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    out: Annotated[str | None, typer.Option(help="Name of the run.", show_default="NAME-TIME")] = None,
    config: ConfigOption = None,
) -> None:
    """Run a study with the clinics, and follow it; Ctrl-C leaves the run going."""
    from melfed.server.cli.follow import Others, Tail
    from melfed.server.daemon.state import read_daemon_state

    server = own_configuration(config)
    if resume and (out or clinics):
        raise StudyError("--resume goes on with a run as it is: leave out --out and --clinics")
    if path is None and resume is None:
        raise StudyError("name a study: melfed-server run STUDY.yaml; or a run to go on with: --resume RUN")
    read_daemon_state(server)
    started = None if resume else _new(server, path, overrides, clinics, out)
    folder = _resumed(server, str(resume), path, overrides) if started is None else started
    name = folder.path.name
    # Made after the folder: the daemon needs a second to see it.
    tail = Tail(server.audit_log, folder.identity)
    if started is None:
        _want(folder)
    if detach:
        Others(server.runs, folder, lambda line: errors.print(line, style="yellow", soft_wrap=True)).look()
        errors.print(f"run {name} is queued; see melfed-server status")
        output.print(name)
        return
    _follow(server, folder, tail)


def stop(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.", show_default=False)],
    config: ConfigOption = None,
) -> None:
    """Stop a run, and the training at the clinics; it can be resumed."""
    from melfed.server.runs.folder import RunFolder
    from melfed.server.runs.names import run_path
    from melfed.server.runs.state import change_state, read_state

    folder = RunFolder.open(run_path(own_configuration(config), Path(name).name))
    state = read_state(folder.path)
    if state is None or state.status == "completed":
        raise RunError(f"{folder.path}: the run has finished already")
    change_state(folder.path, wanted=False)
    errors.print(f"run {folder.path.name} stops; go on with melfed-server run --resume {folder.path.name}")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for function in (study, run, stop):
        app.command()(function)


def _sealed(
    path: Path, overrides: "Sequence[str]", config: "ServerConfig"
) -> "tuple[StudyProtocol, tuple[Choice, ...]]":
    """Return a study as it is run, and what its recipe chose; says what that is."""
    from melfed.common.study.build import located, seal
    from melfed.common.study.file import read_study
    from melfed.common.study.recipe import resolve
    from melfed.server.report.privacy_words import shown

    protocol, choices = resolve(read_study(path, overrides))
    if not protocol.federation.with_clinics:
        raise StudyError(f"{path}: federation.mode is {protocol.federation.mode}; a baseline is for melfed-sim")
    if protocol.data.phantom is not None:
        raise StudyError(f"{path}: data.phantom is for melfed-sim; clinics have images of their own: set it to null")
    for choice in choices:
        errors.print(f"recipe: {choice.key} = {shown(choice.value)}: {choice.reason}")
    with errors.status("looking for the study's weights"):
        return located(seal(protocol, config.weights_folder), config.weights_folder), choices


def _tell_who_is_trusted(study: "StudyProtocol") -> None:
    """Warn where one clinic that lies about how much it has, or about its update, would make the model alone."""
    from melfed.common.study.protocol import FederationSpec

    spec = study.federation
    if spec.robust != "none":
        return
    weight = spec.largest_clinic < FederationSpec().largest_clinic
    length = spec.largest_update_norm is not None or spec.clip_update_norm is not None
    missing = [*(() if weight else ("largest_clinic",)), *(() if length else ("clip_update_norm",))]
    if missing:
        keys = " and ".join(f"federation.{key}" for key in missing)
        errors.print(f"warning: a clinic that lies can take over the model; state {keys}, or robust", style="yellow")


def _tell_who_is_waited_for(config: "ServerConfig", study: "StudyProtocol") -> None:
    """Say where one clinic that is away for a moment would end the run of all, or a slow one would work in vain."""
    from melfed.server.clinics.registry import read_clinics

    clinics = sum(not record.revoked for record in read_clinics(config.clinics))
    if clinics > 2 and study.federation.quorum == 1:
        said = "federation.quorum is 1: one clinic that does not answer within deadline_seconds ends the run"
        errors.print(f"note: {said}; --rehearse proposes both by what clinics say of a round", style="yellow")


def _tell_how_many_to_test_on(config: "ServerConfig", study: "StudyProtocol") -> None:
    """Say, before anybody spends ε, how many melanomas the noise of the evaluation would hide."""
    from melfed.common.metrics.noisy import units_needed
    from melfed.common.study.evaluation_noise import gaussian_multiplier, noised_attributes, subgroups_multiplier
    from melfed.server.clinics.registry import read_clinics
    from melfed.server.report.words import plural

    clinics = sum(not record.revoked for record in read_clinics(config.clinics))
    sigma = study.privacy and gaussian_multiplier(study, study.privacy)
    if clinics and study.privacy and sigma:
        some = f"with {clinics} clinics the test parts need" if clinics > 1 else "the test part needs"
        units = f"about {units_needed(sigma, clinics)} {plural(study.privacy.unit)} with a melanoma"
        errors.print(f"note: {some} {units} for an AUROC at this ε (σ {sigma:.3g})")
    if clinics and study.privacy and sigma and (attributes := noised_attributes(study)):
        of_each = subgroups_multiplier(study, sigma) * math.sqrt(len(attributes))
        units = f"about {units_needed(of_each, clinics)} {plural(study.privacy.unit)} with a melanoma"
        errors.print(f"note: a subgroup by {', '.join(attributes)} needs {units} for one")


def _new(
    config: "ServerConfig", path: Path | None, overrides: "Sequence[str]", clinics: str | None, out: str | None
) -> "RunFolder":
    from melfed.common.moments.expected import require_useful
    from melfed.server.aggregation.robust import clinics_needed
    from melfed.server.federation.memory import require_memory
    from melfed.server.runs.names import NAME
    from melfed.server.runs.request import queue_run

    names = chosen(config, clinics)
    protocol, choices = _sealed(path or Path(), overrides, config)
    clinics_needed(protocol.federation, len(names))  # or nobody needs to begin
    require_memory(protocol, len(names))
    require_useful(protocol, len(names), config.weights_folder)
    name = out or f"{protocol.name}-{datetime.now(UTC).astimezone():%Y%m%d-%H%M%S}"
    if not NAME.fullmatch(name):
        raise RunError(f"--out {name}: a name has letters, digits, dots, hyphens; runs are below {config.runs}")
    _tell_who_has_not_approved(config, names, protocol.digest)
    _tell_who_is_trusted(protocol)
    if len(names) == 1:
        words = (
            "warning: one clinic alone: what it sends is the model, and no other's update hides it from the coordinator"
        )
        errors.print(words, style="yellow")
    folder = queue_run(config.runs / name, protocol, names, choices, fresh=out is None)
    errors.print(f"run {folder.path.name}: study {protocol.name} {protocol.digest}, clinics: {', '.join(names)}")
    return folder


def chosen(config: "ServerConfig", names: str | None) -> tuple[str, ...]:
    """Return the clinics that are named, with commas, or all that are approved. Raises ServerConfigError."""
    from melfed.server.clinics.registry import read_clinics

    known = [record.name for record in read_clinics(config.clinics) if not record.revoked]
    if not known:
        raise ServerConfigError(
            f"{config.clinics}: no clinic is approved; provision some, or melfed-server approve FILE"
        )
    if names is None:
        return tuple(known)
    wanted = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ServerConfigError(f"--clinics: {', '.join(unknown) or 'names nobody'}; approved: {', '.join(known)}")
    return wanted


def _tell_who_has_not_approved(config: "ServerConfig", names: "Sequence[str]", digest: str) -> None:
    """Say who would take no part. What a clinic said before may be so no more: it is asked before it is spoken of."""
    from melfed.server.cli import status
    from melfed.server.clinics.self_reports import present

    if not any(_takes_no_part(said, digest) for said in _of(config, names).values()):
        return
    began = present()
    try:
        with errors.status("asking the clinics"):
            status.ask_clinics(config, ASK_SECONDS)
    except ServiceError as error:
        errors.print(f"note: some clinics took no part when they were last asked, and now {error}", style="yellow")
        return
    for name, said in _of(config, names).items():
        if said.at >= began and (why := _takes_no_part(said, digest)):
            errors.print(f"clinic {name} {why}", style="yellow")


def _of(config: "ServerConfig", names: "Sequence[str]") -> "dict[str, Said]":
    from melfed.server.clinics.self_reports import read_said

    return {name: said for name, said in read_said(config.clinics_said).items() if name in names}


def _takes_no_part(said: "Said", digest: str) -> str:
    if said.declined == digest:
        return f"declines this study: {said.reason}"
    if said.approved is not None and not {digest, "any"} & set(said.approved):
        return "has not approved this study"
    return ""


def _resumed(config: "ServerConfig", name: str, path: Path | None, overrides: "Sequence[str]") -> "RunFolder":
    from melfed.server.results.solved import awaits_evaluation
    from melfed.server.runs.folder import RunFolder
    from melfed.server.runs.names import run_path
    from melfed.server.runs.request import read_request
    from melfed.server.runs.state import read_state

    folder = RunFolder.open(run_path(config, Path(name).name))
    read_request(folder.path)
    if path is not None:
        theirs, mine = folder.study().digest, _sealed(path, overrides, config)[0].digest
        if theirs != mine:
            raise RunError(f"{folder.path}: a run of study {theirs[:12]}, not {mine[:12]}; resume with the same study")
    state = read_state(folder.path)
    if state is not None and state.status == "completed" and not awaits_evaluation(folder):
        raise RunError(f"{folder.path}: the run has finished already; its report is {folder.report}")
    return folder


def _want(folder: "RunFolder") -> None:
    """Have the daemon go on with a run that has ended; one that is under way stays as it is."""
    from melfed.server.federation.memory import require_memory
    from melfed.server.runs.request import read_request
    from melfed.server.runs.state import change_state, read_state

    state = read_state(folder.path)
    if state is None or not state.wanted or state.status not in {"queued", "running"}:
        require_memory(folder.study(), len(read_request(folder.path).clinics))
        change_state(folder.path, wanted=True, status="queued", reason="")


def _follow(config: "ServerConfig", folder: "RunFolder", tail: "Tail") -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from melfed.server.cli.follow import Others, Presence, Row, Spoken, follow, raise_unless_completed, words_of
    from melfed.server.cli.run_table import notes, summary_table
    from melfed.server.report.privacy_words import terminal_line

    name, rounds = folder.path.name, folder.study().federation.rounds
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=errors, disable=not errors.is_terminal)
    task = progress.add_task("queued", total=rounds)

    def doing(words: str) -> None:
        if not errors.is_terminal:  # there, it stands beside the bar
            errors.print(words)

    spoken = Spoken(doing)

    def tell(row: Row) -> None:
        if words := words_of(row):
            errors.print(words[0], style=words[1] or None)
            spoken.told()

    def say(runs: bool) -> None:
        if runs:
            errors.print("the server runs again", style="green")
        else:
            again = f"melfed-server start {config.path}"
            errors.print(f"the server has ended; run {name} goes on once it is started again: {again}", style="yellow")

    presence = Presence(config.daemon_lock, say)
    others = Others(config.runs, folder, lambda line: errors.print(line, style="yellow", soft_wrap=True))

    def see(state: "RunState") -> None:
        presence.look()
        others.look()
        words = (state.doing or state.status) if state.status == "running" else state.status
        spoken.doing(words)
        progress.update(task, completed=state.round, description=words)

    try:
        with progress if errors.is_terminal else nullcontext():
            state = follow(folder, tail, tell, see)
    except KeyboardInterrupt:
        errors.print(
            f"run {name} goes on; follow it with melfed-server run --resume {name}, "
            f"stop it with melfed-server stop {name}"
        )
        raise typer.Exit(INTERRUPTED) from None
    raise_unless_completed(name, state)
    summary = folder.summary()
    output.print(summary_table(summary))
    for line in notes(summary):
        output.print(line, soft_wrap=True)
    if summary.privacy:
        output.print(terminal_line(summary.privacy, "the clinics' own"), soft_wrap=True)
    errors.print(NOTICE, style="dim")
    output.print(f"report: {folder.report}", soft_wrap=True)
