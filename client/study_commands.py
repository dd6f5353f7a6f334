"""`melfed-client approve`, `revoke`, `studies`: which studies may train here."""

import getpass
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from client.terminal import ConfigOption, JsonOption, clinic, errors, output

if TYPE_CHECKING:
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
    config: ConfigOption = None,
) -> None:
    """Let a study train here, and print what the clinic agrees to with it.

    The rest of the policy stays: a study that asks for more than clinic.yaml allows is declined, approved or not.
    """
    from client.approvals import approve as approve_study
    from client.approvals import effective_policy, study_to_approve
    from client.study_words import agreement

    here = clinic(config)
    read = study_to_approve(here, study)
    if read is None:
        errors.print("the digest alone says nothing of the study: approve its file to see what is agreed to")
    else:
        _print_agreement(agreement(here, effective_policy(here), read))
    if check:
        output.print("nothing was approved (--check)")
        return
    approval = approve_study(here, study, by or user())
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


def user() -> str:
    """Return who sits there: behind sudo, who called it."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return f"uid {os.getuid()}"
