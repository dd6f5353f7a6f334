"""`melfed-client ledger`: what was charged to the privacy of a clinic's patients."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from melfed.client.cli.options import ConfigOption, clinic
from melfed.client.cli.study import ByOption, user
from melfed.common.errors import LedgerError
from melfed.common.terminal.console import JsonOption, errors, output

if TYPE_CHECKING:
    from melfed.client.approval.study_accounts import StudyAccount
    from melfed.client.config.clinic import ClinicConfig
    from melfed.client.ledger.ledger import VerifiedLedger

LONGEST_NAME = 200
TABLE_WIDTH = 130
NONE_YET = "no ledger yet: it begins with the first charge"

ledger_app = typer.Typer(name="ledger", help="What was charged to the privacy of a clinic's patients.")

Ledgers = Annotated[
    Path | None,
    typer.Argument(
        metavar="[PATH]", help="A ledger, or a run folder: all its ledgers; else this clinic's.", show_default=False
    ),
]


@ledger_app.command()
def show(path: Ledgers = None, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show every charge, and the total ε after it; at a clinic also each study's runs and ε, allowed, spent and left.

    A charge is reserved before anything is computed, spent when the computation has ended, and released before its
    result leaves the clinic. It counts from the moment when it is reserved.
    """
    from melfed.client.ledger.rows import charges

    ledgers = _found(path, config)
    studies = _accounts(config, ledgers[0][1]) if path is None else ()
    if as_json:
        content = [
            {
                "ledger": str(file),
                "rows": len(ledger.rows) + len(ledger.changes),
                "head": ledger.head,
                "charges": charges(ledger.rows),
                "continued": [{"time": row.time, "by": row.by, "data": row.data} for row in ledger.changes],
                **({"studies": [account.as_json() for account in studies]} if path is None else {}),
            }
            for file, ledger in ledgers
        ]
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
        return
    for file, ledger in ledgers:
        _print_ledger(file, ledger)
    for account in studies:
        output.print(f"study {account.digest[:12]} {account.study or ''}: {account}".replace(" :", ":"), soft_wrap=True)


@ledger_app.command()
def verify(
    path: Ledgers = None,
    head: Annotated[
        str | None, typer.Option(metavar="HASH", help="A hash that the ledger must have a row of.", show_default=False)
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Check that no row was edited, dropped, moved, doubled or cut off since it was written.

    Whoever can write the ledger could replace all of it. A head that was kept elsewhere finds that out: one from a
    report, or one that this command has printed before.
    """
    for file, ledger in _found(path, config, head):
        if not ledger.head:
            output.print(f"{file}: {NONE_YET}", soft_wrap=True)
            continue
        rows = _counted(len(ledger.rows) + len(ledger.changes), "row")
        sys.stdout.write(f"{file}: {rows}, chain whole, head {ledger.head}\n")
        if ledger.mendable:
            errors.print(f"{file}: {ledger.mendable}; the next worker mends it")


@ledger_app.command()
def export(path: Ledgers = None, config: ConfigOption = None) -> None:
    """Print a line of JSON a charge, in the order of reservation.

    The keys are those of the ledger's rows, without the chain's; `ledger` names the file. `status` is the charge's
    latest; `epsilon` is the total, at `delta`, of this line and those before it, null where one of them had no noise.
    """
    from melfed.client.ledger.rows import charges

    for file, ledger in _found(path, config):
        for charge in charges(ledger.rows):
            sys.stdout.write(json.dumps({"ledger": file.stem, **charge}) + "\n")


@ledger_app.command("continue")
def continue_(by: ByOption = None, config: ConfigOption = None) -> None:
    """Go on with this clinic's ledger after its data have changed on purpose, or after it was lost or restored.

    A ledger is of one data set: since a change every private study is refused. With one that was restored from an older
    backup, or is missing, the worker does not start; the charges that the audit log knows and the ledger lacks are
    carried over into it. Nothing is given back: all that was spent counts on against policy.epsilon.
    """
    from melfed.client.config.folders import acting_as_owner

    here, name = clinic(config), by or user()
    if not (name.isprintable() and 0 < len(name) <= LONGEST_NAME):
        raise typer.BadParameter(f"give up to {LONGEST_NAME} printable characters", param_hint="--by")
    with acting_as_owner(here.worker_state):
        carried = _carry_over(here, name)
        if not here.ledger.exists():
            raise LedgerError(f"{here.ledger}: there is no ledger yet; it begins with the first charge")
        said = _continue_with_data(here, name)
    if carried is not None:
        counts = f"{_counted(carried, 'charge')} that the audit log knew, and {'it' if carried == 1 else 'they'} count"
        output.print(f"{here.ledger}: goes on with {counts}{'s' if carried == 1 else ''}", soft_wrap=True)
    if said is not None or carried is None:
        said = said or "is of these data already; nothing was written"
        output.print(f"{here.ledger}: {said}", soft_wrap=True)


def _carry_over(here: "ClinicConfig", name: str) -> int | None:
    """Write into the ledger what the audit log knows and it lacks; return how many charges, None where nothing."""
    from melfed.client.ledger.carry import carry_over
    from melfed.client.ledger.key import ledger_key
    from melfed.client.ledger.witness import lost, remembered

    if not lost(here.ledger, remembered(here.audit_log)):
        return None
    if not here.ledger.exists():
        ledger_key(here.ledger)  # made anew where it is lost, too: then the data count as changed
    carried = carry_over(here.ledger, here.audit_log, name)
    _record_continued(here, name, carried=carried)
    return carried


def _continue_with_data(here: "ClinicConfig", name: str) -> str | None:
    """Let the ledger go on with the data as they are; return that in words, None where it is of these."""
    from melfed.client.data.clinic_data import population_fingerprint
    from melfed.client.data.loading import population
    from melfed.client.ledger.key import ledger_key
    from melfed.client.ledger.ledger import continue_with, verify
    from melfed.client.ledger.witness import Witness
    from melfed.common.audit.log import AuditLog

    data = population(here)
    now = population_fingerprint(data, ledger_key(here.ledger))
    if verify(here.ledger).data in (None, now):
        return None
    # The log learns of the charges so far now, or never: it is asked later for those alone that follow.
    Witness(here.ledger, AuditLog(here.audit_log)).begin()
    continue_with(here.ledger, now, name)
    charged = _record_continued(here, name)
    before = f"{_counted(charged, 'charge')} before {'counts' if charged == 1 else 'count'} on"
    return f"goes on with {_counted(len(data), 'image')}; {before}"


def _record_continued(here: "ClinicConfig", name: str, carried: int | None = None) -> int:
    """Write down where the ledger goes on; return how many charges it has."""
    from melfed.client.ledger.ledger import verify
    from melfed.common.audit.events import Event
    from melfed.common.audit.log import AuditLog

    ledger = verify(here.ledger)
    charges = sum(row.status == "reserved" for row in ledger.rows)
    about = {} if carried is None else {"carried": carried}
    AuditLog(here.audit_log).record(Event.LEDGER_CONTINUED, by=name, charges=charges, **about, head=ledger.head)
    return charges


def _accounts(config: Path | None, ledger: "VerifiedLedger") -> "tuple[StudyAccount, ...]":
    """Return what each study may cost this clinic, and has cost it."""
    from melfed.client.approval.approvals import effective_policy
    from melfed.client.approval.study_accounts import accounts

    here = clinic(config)
    return accounts(here, effective_policy(here), ledger.rows)


def _found(path: Path | None, config: Path | None, head: str | None = None) -> list[tuple[Path, "VerifiedLedger"]]:
    """Return the ledgers that are named, else that of the clinic of this machine, which may not have begun yet.

    Raises:
        LedgerError: one is damaged, or is not there and was.
        PolicyError: there is no clinic here.
    """
    from melfed.client.ledger.ledger import VerifiedLedger
    from melfed.client.ledger.witness import check_against, remembered

    if path is not None:
        if config is not None:
            raise typer.BadParameter("it has a ledger of its own: leave out PATH", param_hint="--config")
        return _read(path, head)
    here = clinic(config)
    begun = here.ledger.exists() or here.ledger.with_name(f"{here.ledger.name}.head").exists()
    if begun or head is not None:
        return _read(here.ledger, head)
    check_against(here.ledger, remembered(here.audit_log))
    return [(here.ledger, VerifiedLedger(rows=(), head="", mendable=None, changes=(), data=None))]


def _read(path: Path, head: str | None = None) -> list[tuple[Path, "VerifiedLedger"]]:
    """Return the ledgers that a path names, all of them verified. Raises LedgerError."""
    from melfed.client.ledger.ledger import verify as verify_ledger

    files = [path]
    if path.is_dir():
        folder = path if path.name == "ledgers" else path / "ledgers"
        # A ledger that was removed has left its second file.
        files = sorted({*folder.glob("*.jsonl"), *(head.with_suffix("") for head in folder.glob("*.jsonl.head"))})
        if not files:
            raise LedgerError(f"{folder}: no ledgers are there; name a ledger, or the folder of a private run")
        if head is not None and len(files) > 1:
            raise typer.BadParameter("it is a hash of one ledger: name that file", param_hint="--head")
    return [(file, verify_ledger(file, head)) for file in files]


def _print_ledger(file: Path, ledger: "VerifiedLedger") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from melfed.client.ledger.rows import charges
    from melfed.common.audit.log import printable

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("study", "run", "round", "purpose", "unit", "q", "σ", "steps", "status", "ε so far", "δ"):
        number = column in {"round", "q", "σ", "steps", "ε so far", "δ"}
        table.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=column != "run")
    lines = charges(ledger.rows)
    for line in lines:
        texts = (printable(str(line[name])) for name in ("run", "round", "purpose", "unit"))
        mechanism = (f"{line['sampling_rate']:.4g}", f"{line['noise_multiplier']:.4g}", str(line["steps"]))
        table.add_row(line["study"][:12], *texts, *mechanism, line["status"], *_strength(line))
    if lines:
        # A narrower terminal wraps its lines, which is easier to read than numbers that are cut to a few digits.
        width = max(output.width, TABLE_WIDTH)
        Console(highlight=False, markup=False, emoji=False, width=width).print(table, crop=False)
    for change in ledger.changes:
        text = f"continued by {change.by} with other data, {change.data[:12]}; what was spent before counts"
        output.print(f"{change.time}: {text}", soft_wrap=True)
    output.print(f"{file}: {_total(lines, ledger.data) if ledger.head else NONE_YET}", soft_wrap=True)


def _total(lines: Sequence[dict[str, Any]], data: str | None) -> str:
    if not lines or data is None:
        return "no charges"
    epsilon, delta = _strength(lines[-1])
    kept = sum(line["status"] != "released" for line in lines)
    never = f", {kept} of them never released" if kept else ""
    return f"data {data[:12]}: total ε = {epsilon} at δ = {delta}, {_counted(len(lines), 'charge')}{never}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _strength(line: dict[str, Any]) -> tuple[str, str]:
    """Return ε and δ of a charge as text."""
    epsilon = "unbounded" if line["epsilon"] is None else f"{line['epsilon']:.4f}"
    return epsilon, f"{line['delta']:g}"
