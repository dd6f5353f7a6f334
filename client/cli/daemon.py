"""`melfed-client start`, `status`, `doctor`, and the processes that `start` consists of."""

import json
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import typer

from melfed.client.cli.options import ConfigArgument, ConfigOption, clinic
from melfed.common.errors import ServiceError
from melfed.common.terminal.console import JsonOption, errors, output
from melfed.common.terminal.times import ago

if TYPE_CHECKING:
    from collections.abc import Iterator

    from melfed.client.config.clinic import ClinicConfig
    from melfed.client.daemon.daemon import Role
    from melfed.client.status import ClientStatus


def add_to(app: typer.Typer) -> None:
    """Add these commands to `melfed-client`."""
    for command in (start, status, doctor, worker, carry):
        app.command()(command)
    for command in (supernode, messenger):
        app.command(hidden=True)(command)


def start(path: ConfigArgument = None, config: ConfigOption = None) -> None:
    """Take part: run worker, SuperNode and messenger until told to stop (Ctrl-C, SIGTERM).

    Run as root with messenger.user set, SuperNode and messenger run as that user, who cannot read the data.
    """
    from melfed.client.daemon.daemon import ROLES

    here = clinic(path, config)
    if here.file.messenger.user is not None and os.geteuid() != 0:
        errors.print("messenger.user is set, but only root can change users: all run as this user", style="yellow")
    _supervise(here, ROLES)


def carry(config: ConfigOption = None) -> None:
    """Run SuperNode and messenger alone: for a service beside that of the worker, with a user of its own."""
    from melfed.client.daemon.daemon import CARRIERS

    _supervise(clinic(config), CARRIERS)


def worker(config: ConfigOption = None) -> None:
    """Run the worker alone: for a service with a user of its own, who owns the data."""
    from dataclasses import replace

    from melfed.client.worker.process import serve

    here = clinic(config)
    _begin()
    # The health port is the daemon's, `start` or `carry`, which answers for the worker as well.
    serve(replace(here, file=here.file.model_copy(update={"health_port": None})), _until_told())


def supernode(config: ConfigOption = None) -> None:
    """Run Flower's SuperNode; a child of `start` and `carry`."""
    from melfed.client.flower.supernode import main

    here = clinic(config)
    _begin()
    main(here)


def messenger(config: ConfigOption = None) -> None:
    """Run what starts a ClientApp for each message; a child of `start` and `carry`."""
    from melfed.client.flower.superexec import main

    here = clinic(config)
    _begin()
    main(here)


def status(as_json: JsonOption = False, path: ConfigArgument = None, config: ConfigOption = None) -> None:
    """Tell what runs, what keeps this clinic from taking part, which studies are approved, and how much ε is left.

    Leaves with 0 where the clinic is ready, with 14 where a process does not do its work, and with 1, as the doctor,
    where something else keeps it from taking part: changed data, a full disk, a coordinator that does not let it in.
    """
    from melfed.client.status import status as status_of
    from melfed.common.doctor.steps import exit_code

    with errors.status("looking"):
        found = status_of(clinic(path, config))
    if as_json:
        sys.stdout.write(json.dumps(found.as_json(), indent=2) + "\n")
    else:
        _print_status(found)
    if not found.running:
        raise typer.Exit(ServiceError.exit_code)
    if not found.ready:
        raise typer.Exit(exit_code(found.checks))


def doctor(path: ConfigArgument = None, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Examine everything that can keep this clinic from taking part, say what to do, and show how data are read.

    Changes nothing. Leaves with 0, or with 1 where something does not work.
    """
    from melfed.client.approval.data_description import read_for
    from melfed.client.doctor.examination import examine
    from melfed.common.doctor.steps import exit_code, to_json
    from melfed.common.terminal.doctor_table import lines, render_understood

    here = clinic(path, config, complete=False)
    if as_json:
        checks = examine(here)
        listed = json.loads(to_json(checks))
        for check in listed:
            if check["name"] == "table" and (found := read_for(here, None).understood) is not None:
                check["understood"] = found.without_names().model_dump()
        sys.stdout.write(json.dumps(listed, indent=2, ensure_ascii=False) + "\n")
    else:
        with errors.status("examining") as line:
            checks = examine(here, lambda check: line.update(f"examined: {check.name}"))
            understood = read_for(here, None).understood
        for text in lines(checks):
            output.print(text, soft_wrap=True)
        if understood is not None:
            for table in render_understood(understood.without_names()):
                output.print(table)
    raise typer.Exit(exit_code(checks))


def _supervise(here: "ClinicConfig", roles: "tuple[Role, ...]") -> None:
    from melfed.client.daemon.daemon import ClientDaemon

    _begin()
    stop = _until_told()
    ClientDaemon(here, roles).run(stop)


def _begin() -> None:
    """Log to stderr, where journald finds it, make no file that others could read, and download nothing."""
    from melfed.common.audit.log import configure_logging

    os.umask(0o077)
    os.environ["MELFED_OFFLINE"] = "1"
    configure_logging()


def _until_told() -> threading.Event:
    """Return what SIGTERM and Ctrl-C set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _print_status(found: "ClientStatus") -> None:
    from rich.text import Text

    rows = list(_status_rows(found))
    width = max(len(heading) for heading, _, _ in rows)
    for heading, text, style in rows:
        # Lines, and no table: whatever has to be copied stays whole.
        output.print(Text.assemble(f"{heading:{width}}  ", (text, style)), soft_wrap=True)
    for problem in found.problems:
        errors.print(problem, style="yellow")


def _status_rows(found: "ClientStatus") -> "Iterator[tuple[str, str, str]]":
    """Yield heading, words and style of each line."""
    from melfed.common.doctor.steps import MARKS, STYLES

    yield "clinic", found.clinic, ""
    children = {str(child["name"]): child for child in found.daemon.children} if found.daemon else {}
    for name, word in found.processes.items():
        child = children.get(name)
        yield name, word if child is None else f"{word}, {_of_child(child)}", ""
    for check in found.checks:
        if check.status in ("failed", "warning"):
            yield check.name, f"{MARKS[check.status]} {check.detail}", STYLES[check.status]
            yield "", check.mend, ""
    let_in = any((check.name, check.status) == ("door", "ok") for check in found.checks)
    yield "coordinator", f"{found.coordinator} {'lets this clinic in' if let_in else 'see above'}", ""
    if found.approved is not None:
        several = "any study" if found.approved == "any" else ", ".join(digest[:16] for digest in found.approved)
        yield "approved", several or "no study", ""
    if found.budget is not None:
        budget = found.budget
        spent = f"ε {budget.spent:.4g} of {budget.epsilon:g} spent, {budget.left:.4g} left, at δ {budget.delta:g}"
        yield "privacy", spent, ""
    for account in found.studies:
        yield "study", f"{account.digest[:16]} {account.study or ''}: {account}".replace(" :", ":"), ""
    if found.last is not None:
        last = found.last
        words = f"round {last.round} ({last.purpose}, {last.status}) of study {last.study[:16]}, run {last.run}"
        yield "last round", f"{words}, {ago(last.time)}", ""


def _of_child(child: "dict[str, str | int | None]") -> str:
    words = [f"pid {child['pid']}" if child["pid"] else "", f"for {ago(str(child['since'])).removesuffix(' ago')}"]
    if child["restarts"]:
        times = "once" if child["restarts"] == 1 else f"{child['restarts']} times"
        words.append(f"restarted {times}, last: {child['reason']}")
    return ", ".join(word for word in words if word)
