"""`melfed-client approve`, `revoke`, `studies`, `forget`: which studies may train here, and what they were given."""

import getpass
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from melfed.client.cli.options import ConfigOption, clinic
from melfed.common.errors import DeclinedError, MelfedError, RunError, WeightsError
from melfed.common.terminal.console import JsonOption, errors, output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melfed.client.approval.approvals import Approval
    from melfed.client.approval.data_description import TableReading
    from melfed.client.cli.agreement import Agreement
    from melfed.client.config.clinic import ClinicConfig
    from melfed.common.study.protocol import StudyProtocol

MOST_CHANGES = 6
"""Keys that are named of two studies that differ."""

ByOption = Annotated[
    str | None, typer.Option("--by", metavar="NAME", help="Who decides; else this user.", show_default=False)
]


def add_to(app: typer.Typer) -> None:
    """Add these commands to `melfed-client`."""
    for command in (approve, revoke, studies, forget):
        app.command()(command)


def approve(
    study: Annotated[
        str,
        typer.Argument(metavar="STUDY.YAML|DIGEST", help="The study, or all 64 digits of its digest."),
    ],
    check: Annotated[bool, typer.Option("--check", help="Only print what would be agreed to.")] = False,
    runs: Annotated[
        int, typer.Option(min=1, max=1000, help="How often it may run, runs that have begun included.")
    ] = 1,
    epsilon: Annotated[
        float | None,
        typer.Option(min=1e-6, max=1e4, help="Largest ε of all its runs.", show_default="that of so many whole runs"),
    ] = None,
    by: ByOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Let a study run here, once or more often, and print what the clinic agrees to with it and how its table is read.

    The rest of the policy stays: a study that asks for more than clinic.yaml allows is declined, approved or not. Where
    too little ε is left for a whole run, it is not approved: this clinic could not end what it begins. Nor is anything
    while the table has diagnoses that nobody knows: afterwards they would be left out unsaid.
    """
    from melfed.client.approval.approvals import approve as approve_study
    from melfed.client.approval.approvals import effective_policy, other_versions, study_to_approve
    from melfed.client.approval.data_description import read_for
    from melfed.client.cli.agreement import agreement
    from melfed.client.worker.disclosure import in_full

    here = clinic(config)
    lacking: MelfedError | None = None
    agreed, allowed = None, list[tuple[str, str]]()
    with errors.status("reading the study and this clinic's table"):
        read = study_to_approve(here, study)
        if read is not None:
            allowed, lacking = _allowed(here, read, runs, epsilon)
            agreed = agreement(here, effective_policy(here), read)
        shown = read_for(here, read)
    if not as_json:
        if agreed is None or read is None:
            errors.print("the digest alone says nothing of the study: approve its file to see what is agreed to")
        else:
            _print_agreement(agreed, allowed)
            _print_others(other_versions(here, read), read)
        _print_reading(shown)
    if check and shown.unknown is not None:
        raise shown.unknown
    if lacking is not None and not check:
        raise DeclinedError(f"not approved: {in_full(lacking)}; see melfed-client studies, and policy.epsilon")
    minutes = None if check or read is None else _timed(here, read)
    approval = None if check else approve_study(here, study, by or user(), runs, epsilon, minutes)
    if as_json:
        _write_approval(approval, agreed, shown)
    elif approval is None:
        if lacking is not None:
            errors.print(f"It would not be approved: {in_full(lacking)}", style="yellow")
        output.print("nothing was approved (--check)")
    else:
        often = f"{runs} run{'' if runs == 1 else 's'}"
        cost = "" if approval.epsilon is None else f", ε {approval.epsilon:.4g} in all"
        output.print(f"approved {approval.digest} by {approval.by}: {often}{cost}", soft_wrap=True)


def revoke(
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="At least its first four digits.")],
    by: ByOption = None,
    config: ConfigOption = None,
) -> None:
    """Take the approval of a study back: its next request is declined."""
    from melfed.client.approval.approvals import revoke as revoke_study

    approval = revoke_study(clinic(config), digest, by or user())
    output.print(f"revoked {approval.digest}", soft_wrap=True)


def forget(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="The run's identity, as in the ledger.", show_default=False)
    ],
    by: ByOption = None,
    config: ConfigOption = None,
) -> None:
    """Delete the moments that a run of one round was given: they are not released again, and what was spent stays."""
    from melfed.client.worker.kept_moments import delete_moments
    from melfed.common.audit.events import Event
    from melfed.common.audit.log import AuditLog

    here = clinic(config)
    if not delete_moments(here.ledger, run):
        raise RunError(f"{here.ledger.parent}: no moments of a run {run!r} are kept here; see melfed-client ledger")
    AuditLog(here.audit_log, "cli").record(Event.RELEASE_DELETED, run=run, by=by or user())
    output.print(f"deleted: the moments of run {run}; its charges stay in the ledger", soft_wrap=True)


def studies(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the studies that may run, with how often they may and have, and their ε: allowed, spent and left."""
    from melfed.client.approval.approvals import approved, effective_policy
    from melfed.client.approval.study_accounts import accounts, ledger_of

    here = clinic(config)
    policy, added, ledger = effective_policy(here), approved(here), ledger_of(here)
    found = {account.digest: account for account in accounts(here, policy, ledger.rows if ledger else ())}
    if as_json:
        content = {
            "policy": policy.studies,
            "approvals": [approval.model_dump(mode="json") for approval in added],
            "accounts": [account.as_json() for account in found.values()],
        }
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
        return
    about = {a.digest: f"{a.study or '(digest alone)'}, by {a.by}, {a.time}" for a in added}
    for digest, account in found.items():
        listed = f"listed in {here.path}" if digest in policy.studies else "not approved"
        output.print(f"{digest}  {about.get(digest, listed)}; {account}", soft_wrap=True)
    if policy.studies == "any":
        output.print(f"any study that keeps within the policy ({here.path}: policy.studies)", soft_wrap=True)
    elif not policy.studies:
        output.print("no study is approved; melfed-client approve STUDY.yaml")


def _allowed(
    here: "ClinicConfig", study: "StudyProtocol", runs: int, epsilon: float | None
) -> tuple[list[tuple[str, str]], MelfedError | None]:
    """Return what an approval would allow, in words, and why a run could not be ended here; None where it could.

    A study of which all these runs have begun already is not asked to fit once more: its approval lets those go on.
    """
    from melfed.client.approval.approvals import effective_policy
    from melfed.client.approval.run_budget import StudyTerms
    from melfed.client.approval.study_accounts import allowed_lines, by_study, cannot_end, ledger_of

    policy, ledger = effective_policy(here), ledger_of(here)
    policy = policy.model_copy(update={"terms": {study.digest: StudyTerms(runs=runs, epsilon=epsilon)}})
    rows = ledger.rows if ledger else ()
    lines = allowed_lines(policy, study, rows)
    if study.privacy is None or len(by_study(rows).get(study.digest, {})) >= runs:
        return lines, None
    return lines, cannot_end(policy, study, rows)


def _timed(here: "ClinicConfig", study: "StudyProtocol") -> int | None:
    """Time a step of a study on this machine, and return what a round takes at most, minutes; says what is told."""
    import torch

    from melfed.client.training.rehearsal import coarse_minutes, guessed_patients, rehearse, round_seconds
    from melfed.client.worker.process import device_of

    try:
        with errors.status("timing one step, on synthetic images"):
            seconds = round_seconds(study, rehearse(study, here.weights_folder, device_of(here)))
    except WeightsError as error:
        errors.print(f"a round was not timed: {error}", style="yellow", markup=False)
        return None
    except torch.OutOfMemoryError:
        errors.print("a round was not timed: the device has no memory left for it", style="yellow")
        return None
    minutes = coarse_minutes(seconds)
    told = f"the coordinator is told: {minutes} min at most" if here.file.tell.round_time else "that is not told"
    takes = f"{seconds:.2g} s" if seconds < 100 else f"{seconds / 60:.2g} min"
    errors.print(
        f"a round takes about {takes} here, by {guessed_patients(study):,} synthetic patients of one image each; {told}"
    )
    return minutes


def _print_others(others: "Sequence[tuple[str, StudyProtocol]]", study: "StudyProtocol") -> None:
    """Say of approvals under this study's name what they are of: of an older protocol, or of another text."""
    from melfed.common.study.in_force import changed_keys

    for digest, other in others:
        if other.protocol != study.protocol:
            output.print(
                f"approved before as {digest[:16]}…, of study protocol 1: that approval lets nothing train any "
                "more. What melfed does with patients has changed since (docs/what-was-broken.md), and so has the "
                "digest: read it anew, and approve it again.",
                style="yellow",
            )
            continue
        changes = [f"{key} {old!r} → {new!r}" for key, old, new in changed_keys(other, study)]
        more = f", and {len(changes) - MOST_CHANGES} more keys" if len(changes) > MOST_CHANGES else ""
        output.print(
            f"approved before as {digest}, which is another text of this name. What has changed since: "
            f"{', '.join(changes[:MOST_CHANGES])}{more}. That approval stays (melfed-client revoke "
            f"{digest[:16]}).",
            style="yellow",
            markup=False,
        )


def _print_agreement(agreed: "Agreement", allowed: list[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    before = ""
    for heading, text in (*agreed.lines, *allowed):
        table.add_row("" if heading == before else heading, text)
        before = heading
    output.print(table)
    if agreed.objection is None:
        output.print("The policy in clinic.yaml allows it, as far as the budget lasts.")
    else:
        errors.print(f"But this clinic's policy: {agreed.objection}", style="yellow")


def _print_reading(shown: "TableReading") -> None:
    from melfed.common.terminal.doctor_table import render_understood

    if shown.understood is None:
        errors.print(f"How this clinic's table is read cannot be shown: {shown.problem}", style="yellow", markup=False)
        return
    for table in render_understood(shown.understood):
        output.print(table)


def _write_approval(approval: "Approval | None", agreed: "Agreement | None", shown: "TableReading") -> None:
    content = {
        "approval": approval.model_dump(mode="json") if approval else None,
        "agreement": [list(line) for line in agreed.lines] if agreed else None,
        "objection": agreed.objection if agreed else None,
        "understood": shown.understood.model_dump() if shown.understood else None,
        "problem": shown.problem,
    }
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def user() -> str:
    """Return who sits there: behind sudo, who called it."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return f"uid {os.getuid()}"
