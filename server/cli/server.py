"""Commands of `melfed-server` about the server and its clinics."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from melfed.common.errors import ServiceError
from melfed.common.terminal.console import JsonOption, errors, output
from melfed.server.cli.options import ConfigArgument, ConfigOption, configuration, named_once, own_configuration


def provision(
    consortium: Annotated[
        Path, typer.Argument(metavar="CONSORTIUM.yaml", help="Who takes part, and where.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder of the kits.", show_default=False)],
    renew: Annotated[
        str | None, typer.Option(help="Clinic whose certificate is made anew, or 'server'.", show_default=False)
    ] = None,
) -> None:
    """Make the kits: a private CA, the server's certificate and secrets, keys and certificate of each clinic."""
    from melfed.server.provisioning.kits import spoken_fingerprint
    from melfed.server.provisioning.provision import provision as make

    made = make(consortium, out, renew)
    for what, paths in (("made", made.added), ("renewed", made.renewed)):
        for path in paths:
            errors.print(f"{what}: {made.out / path}")
    if not made.added and not made.renewed:
        errors.print("nothing to make: all kits exist")
    for note in made.notes:
        errors.print(f"note: {note}", style="yellow")
    output.print(f"CA certificate, SHA-256: {spoken_fingerprint(made.fingerprint)}", soft_wrap=True)
    output.print(f"app bundle, SHA-256: {made.app}", soft_wrap=True)


def start(path: ConfigArgument = None, config: ConfigOption = None) -> None:
    """Run the server until it is told to end: SuperLink on loopback, ServerApps, and nginx as the one open port."""
    from melfed.common.audit.log import configure_logging
    from melfed.server.daemon.daemon import start as run
    from melfed.server.flower.superlink import become_quiet

    # Flower's database holds what lets a ServerApp act, and nginx's logs name the clinics.
    os.umask(0o077)
    server = own_configuration(named_once(path, config))
    become_quiet(server)
    configure_logging()
    run(server)


def status(
    as_json: JsonOption = False,
    path: ConfigArgument = None,
    ask: Annotated[bool, typer.Option("--ask", help="Have the clinics say how they are now.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show the server's processes, the clinics and the runs."""
    from melfed.server.cli.status import ask_clinics, tables
    from melfed.server.status import server_status

    named = named_once(path, config)
    server = own_configuration(named) if ask else configuration(named)
    if ask:
        ask_clinics(server)
    found = server_status(server)
    if as_json:
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
    else:
        for table in tables(found):
            if table.row_count:
                output.print(table)
    for problem in found.problems:
        errors.print(f"problem: {problem}", style="yellow")
    if not found.running:
        raise typer.Exit(ServiceError.exit_code)


def approve(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A clinic's record, NAME.json.", show_default=False)],
    config: ConfigOption = None,
) -> None:
    """Let a clinic in, or in again."""
    from melfed.server.clinics.registry import approve as let_in

    record = let_in(configuration(config).clinics, file)
    errors.print(f"clinic {record.name} is let in; its certificate ends {record.not_after[:10]}")


def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the clinic.", show_default=False)],
    config: ConfigOption = None,
) -> None:
    """Keep a clinic out, from now on; a server that runs ends its connections."""
    from melfed.server.clinics.registry import revoke as keep_out

    server = configuration(config)
    record = keep_out(server.clinics, name)
    errors.print(
        f"clinic {record.name} is kept out; let it in again with melfed-server approve {server.clinics}/{name}.json"
    )


def clinics(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the clinics that the server knows."""
    from rich import box
    from rich.table import Table

    from melfed.server.clinics.registry import read_clinics

    records = read_clinics(configuration(config).clinics)
    if as_json:
        sys.stdout.write(json.dumps([record.model_dump(mode="json") for record in records], indent=2) + "\n")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("clinic", "may connect", "certificate ends", "let in"):
        table.add_column(column, overflow="fold")
    for record in records:
        table.add_row(
            record.name, "no, revoked" if record.revoked else "yes", record.not_after[:10], record.approved_at[:10]
        )
    output.print(table)


def doctor(path: ConfigArgument = None, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Examine everything that can keep the server from running, and say what to do about it.

    Changes nothing. Leaves with 0, or with 1 where something does not work.
    """
    from melfed.common.doctor.steps import exit_code, to_json
    from melfed.common.terminal.doctor_table import lines
    from melfed.server.doctor import examine_server

    server = configuration(named_once(path, config))
    if as_json:
        checks = examine_server(server)
        sys.stdout.write(to_json(checks) + "\n")
    else:
        with errors.status("examining") as line:
            checks = examine_server(server, lambda check: line.update(f"examined: {check.name}"))
        for found in lines(checks):
            output.print(found, soft_wrap=True)
    raise typer.Exit(exit_code(checks))


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for function in (provision, start, status, approve, revoke, clinics, doctor):
        app.command()(function)
