"""What each study may cost a clinic, and has cost it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from melfed.client.approval.study_accounts import StudyAccount, by_study, ledger_of
from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import prepare_worker
from melfed.client.ledger.budget import Budget
from melfed.client.ledger.ledger import Charge, Ledger
from melfed.client.privacy.accounting import Mechanism, epsilon
from melfed.client.privacy.plan import plan_of
from melfed.common.errors import LedgerError
from tests.client.approving import PRIVATE, spend
from tests.client.commands import Command


def of_study(content: dict) -> dict:
    (account,) = content if isinstance(content, list) else content["accounts"]
    return account


def test_studies_status_and_ledger_tell_allowed_begun_spent_and_left(
    command: Command, config: ClinicConfig, private: Path
) -> None:
    command("approve", private, "--runs", 2, "--epsilon", 2.5)
    spend(config, 1, 2)
    spent = epsilon([Mechanism(1.0, 8.0, 2)], 1e-5)
    expected = {
        "digest": PRIVATE.digest,
        "study": "small",
        "runs": {"allowed": 2, "begun": 1, "left": 1},
        "epsilon": {"allowed": 2.5, "spent": spent, "left": 2.5 - spent, "delta": 1e-5},
    }
    assert of_study(json.loads(command("studies", "--json").out)) == expected
    assert of_study(json.loads(command("status", "--json").out)["studies"]) == expected
    assert of_study(json.loads(command("ledger", "show", "--json").out)[0]["studies"]) == expected
    words = f"1 of 2 runs begun; ε {spent:.4g} of 2.5 spent, {2.5 - spent:.4g} left at δ = 1e-05"
    for told in (command("studies").out, command("status").out, command("ledger", "show").out):
        assert words in " ".join(told.split())
    assert command("ledger", "show", config.ledger).out.count("runs begun") == 0, "a file alone has no approvals"


def test_what_was_spent_by_a_study_that_is_approved_no_more_is_told(
    command: Command, config: ClinicConfig, private: Path
) -> None:
    command("approve", private)
    spend(config, 1)
    command("revoke", PRIVATE.digest)
    account = of_study(json.loads(command("studies", "--json").out))
    assert account["runs"] == {"allowed": 0, "begun": 1, "left": 0}
    assert account["epsilon"]["spent"] > 0
    assert f"{PRIVATE.digest}  not approved; 1 of 0 runs begun" in command("studies").out


def test_an_old_approvals_epsilon_is_worked_out_where_the_study_is_here(
    command: Command, config: ClinicConfig, private: Path
) -> None:
    command("approve", private)
    old = {"digest": PRIVATE.digest, "study": "small", "by": "IT", "time": "2026-01-01T00:00:00+00:00"}
    (config.approvals / f"{PRIVATE.digest}.json").write_text(json.dumps(old))
    account = of_study(json.loads(command("studies", "--json").out))
    assert (account["runs"]["allowed"], account["epsilon"]["allowed"]) == (1, plan_of(PRIVATE).epsilon)


def test_what_is_left_is_never_less_than_nothing_and_not_known_where_nothing_bounds_it() -> None:
    bounded = StudyAccount("d" * 64, "demo", runs=2, begun=1, epsilon=3.0, spent=1.25, delta=1e-5)
    assert bounded.left == 1.75
    assert str(bounded) == "1 of 2 runs begun; ε 1.25 of 3 spent, 1.75 left at δ = 1e-05"
    assert replace(bounded, spent=4.0).left == 0
    free = replace(bounded, epsilon=None, runs=1)
    assert (free.left, str(free)) == (None, "1 of 1 run begun; ε 1.25 spent")
    noiseless = replace(bounded, spent=math.inf)
    assert str(noiseless) == "1 of 2 runs begun; ε unbounded of 3 spent, 0 left at δ = 1e-05"
    assert noiseless.as_json()["epsilon"] == {"allowed": 3.0, "spent": None, "left": 0.0, "delta": 1e-5}
    assert replace(bounded, begun=5).as_json()["runs"] == {"allowed": 2, "begun": 5, "left": 0}


def test_charges_are_sorted_by_study_and_run_and_counted_once(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.jsonl", "d" * 64) as ledger:
        for study, run, number in (("5", "a", 1), ("5", "a", 2), ("5", "b", 1), ("6", "a", 1)):
            charge = Charge(study * 64, run, number, "training", "patient", Mechanism(0.1, 2.0, 1), 1e-5)
            reservation = ledger.reserve(charge, Budget(None, 1e-5))
            ledger.mark(reservation, "spent")
        rows = ledger.rows
    found = by_study(rows)
    assert {study[0]: {run: len(of) for run, of in runs.items()} for study, runs in found.items()} == {
        "5": {"a": 2, "b": 1},
        "6": {"a": 1},
    }


def test_a_clinic_without_a_ledger_has_none_and_a_head_alone_is_damage(config: ClinicConfig) -> None:
    assert ledger_of(config) is None
    prepare_worker(config)
    assert ledger_of(config) is None
    config.ledger.with_name(f"{config.ledger.name}.head").write_text("x")
    with pytest.raises(LedgerError):
        ledger_of(config)
