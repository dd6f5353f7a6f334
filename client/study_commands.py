"""`melfed-client approve`, `revoke`, `studies`: which studies may train here."""

import getpass
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from client.terminal import ConfigOption, JsonOption, clinic, errors, output

if TYPE_CHECKING:
    from client.approvals import Approval
    from client.data_words import Reading
    from client.study_words import Agreement

ByOption = Annotated[
    str | None, typer.Option("--by", metavar="NAME", help="Who decides; else this user.", show_default=False)
]


def add_to(app: typer.Typer) -> None:
    """Add these commands to `melfed-client`."""
    for command in (approve, revoke, studies):
        app.command()(command)


def approve(
    study: Annotated[
        str,
        typer.Argument(metavar="STUDY.YAML|DIGEST", help="The study, or all 64 digits of its digest."),
    ],
    check: Annotated[bool, typer.Option("--check", help="Only print what would be agreed to.")] = False,
    by: ByOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Let a study train here, and print what the clinic agrees to with it and how its table is read.

    The rest of the policy stays: a study that asks for more than clinic.yaml allows is declined, approved or not.
    Nothing is approved while the table has diagnoses that nobody knows: afterwards they would be left out unsaid.
    """
    from client.approvals import approve as approve_study
    from client.approvals import effective_policy, study_to_approve
    from client.data_words import read_for
    from client.study_words import agreement

    here = clinic(config)
    read = study_to_approve(here, study)
    agreed = agreement(here, effective_policy(here), read) if read else None
    shown = read_for(here, read)
    if not as_json:
        if agreed is None:
            errors.print("the digest alone says nothing of the study: approve its file to see what is agreed to")
        else:
            _print_agreement(agreed)
        _print_reading(shown)
    if check and shown.unknown is not None:
        raise shown.unknown
    approval = None if check else approve_study(here, study, by or user())
    if as_json:
        _write_approval(approval, agreed, shown)
    elif approval is None:
        output.print("nothing was approved (--check)")
    else:
        output.print(f"approved {approval.digest} by {approval.by}", soft_wrap=True)


def revoke(
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="At least its first four digits.")],
    by: ByOption = None,
    config: ConfigOption = None,
) -> None:
    """Take the approval of a study back: its next request is declined."""
    from client.approvals import revoke as revoke_study

    approval = revoke_study(clinic(config), digest, by or user())
    output.print(f"revoked {approval.digest}", soft_wrap=True)


def studies(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the approved studies."""
    from client.approvals import approved, effective_policy

    here = clinic(config)
    policy, added = effective_policy(here), approved(here)
    if as_json:
        content = {
            "policy": policy.studies,
            "approvals": [approval.model_dump(mode="json") for approval in added],
        }
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
        return
    for approval in added:
        output.print(
            f"{approval.digest}  {approval.study or '(digest alone)'}, by {approval.by}, {approval.time}",
            soft_wrap=True,
        )
    if policy.studies == "any":
        output.print(f"any study that keeps within the policy ({here.path}: policy.studies)", soft_wrap=True)
        return
    known = {approval.digest for approval in added}
    for digest in policy.studies:
        if digest not in known:
            output.print(f"{digest}  listed in {here.path}", soft_wrap=True)
    if not policy.studies:
        output.print("no study is approved; melfed-client approve STUDY.yaml")


def _print_agreement(agreed: "Agreement") -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    before = ""
    for heading, text in agreed.lines:
        table.add_row("" if heading == before else heading, text)
        before = heading
    output.print(table)
    if agreed.objection is None:
        output.print("The policy in clinic.yaml allows it, as far as the budget lasts.")
    else:
        errors.print(f"But this clinic's policy: {agreed.objection}", style="yellow")


def _print_reading(shown: "Reading") -> None:
    from client.doctor_table import render_understood

    if shown.understood is None:
        errors.print(f"How this clinic's table is read cannot be shown: {shown.problem}", style="yellow", markup=False)
        return
    for table in render_understood(shown.understood):
        output.print(table)


def _write_approval(approval: "Approval | None", agreed: "Agreement | None", shown: "Reading") -> None:
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
