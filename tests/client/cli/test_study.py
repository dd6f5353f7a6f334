"""`melfed-client approve`, `revoke`, `studies`: what they print, and how they leave."""

import json
from pathlib import Path

import pytest
import torch

from melfed.client.approval.approvals import approved, effective_policy
from melfed.client.approval.run_budget import epsilon_of_runs, terms_of
from melfed.client.config.clinic import ClinicConfig
from melfed.client.privacy.plan import plan_of
from melfed.client.training import rehearsal
from melfed.common.audit.log import read_log
from melfed.common.errors import WeightsError
from tests.client.approving import PRIVATE, spend
from tests.client.clinics import a_clinic
from tests.client.commands import Command

DIGEST = "0123456789abcdef" * 4


def test_approve_says_what_is_agreed_to_and_what_the_policy_says(
    command: Command, config: ClinicConfig, study: Path
) -> None:
    done = command("approve", study)
    assert done.code == 0
    (approval,) = approved(config)
    assert f"approved {approval.digest} by it: 1 run\n" in done.out
    said = " ".join(done.out.split())
    assert "nobody: no noise is added, and what leaves here may tell about single patients" in said
    assert done.err.startswith("But this clinic's policy: study demo is declined: it has no privacy section")


def test_a_study_that_was_approved_as_of_protocol_1_is_told_to_be_approved_again(
    command: Command, config: ClinicConfig, study: Path
) -> None:
    command("approve", study)
    (new,) = approved(config)
    old = new.model_copy(update={"digest": DIGEST})
    (config.approvals / f"{DIGEST}.json").write_text(old.model_dump_json())
    (config.approvals / f"{DIGEST}.yaml").write_text(study.read_text().replace("protocol: 2", "protocol: 1"))
    said = " ".join(command("approve", study).out.split())
    assert f"approved before as {DIGEST[:16]}…, of study protocol 1: that approval lets nothing train any more" in said
    study.write_text(study.read_text().replace("protocol: 2", "protocol: 1"))
    refused = command("approve", study)
    assert refused.code == 3
    assert "is of protocol 1: since protocol 2 each patient is in a part by itself" in refused.err


def test_a_step_is_timed_and_what_is_told_of_it_stands_in_the_approval(
    command: Command, config: ClinicConfig, study: Path
) -> None:
    done = command("approve", study)
    (approval,) = approved(config)
    assert approval.round_minutes is not None
    assert approval.round_minutes.bit_count() == 1
    said = " ".join(done.err.split())
    assert "by 1,000 synthetic patients of one image each" in said
    assert f"the coordinator is told: {approval.round_minutes} min at most" in said
    assert list(read_log(config.audit_log))[-1]["round_minutes"] == approval.round_minutes
    assert terms_of(effective_policy(config), approval.digest).round_minutes == approval.round_minutes


def test_a_clinic_that_does_not_tell_is_told_so(command: Command, tmp_path: Path, study: Path) -> None:
    silent = a_clinic(tmp_path, tell={"round_time": False})
    assert "that is not told" in " ".join(command("approve", study, "--config", silent.path).err.split())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (WeightsError("no weights here"), "a round was not timed: no weights here"),
        (torch.OutOfMemoryError(), "a round was not timed: the device has no memory left for it"),
    ],
)
def test_a_study_that_cannot_be_timed_is_approved_all_the_same(
    command: Command,
    config: ClinicConfig,
    study: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    words: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(rehearsal, "rehearse", fail)
    done = command("approve", study)
    (approval,) = approved(config)
    assert (done.code, approval.round_minutes) == (0, None)
    assert words in " ".join(done.err.split())


def test_a_study_that_was_edited_since_is_told_with_what_changed(
    command: Command, config: ClinicConfig, study: Path
) -> None:
    command("approve", study)
    (before,) = approved(config)
    study.write_text(study.read_text().replace("rounds: 5", "rounds: 7"))
    said = " ".join(command("approve", study, "--check").out.split())
    assert f"approved before as {before.digest}, which is another text of this name" in said
    assert "What has changed since: federation.rounds 5 → 7." in said
    assert f"melfed-client revoke {before.digest[:16]}" in said
    study.write_text(study.read_text().replace("name: demo", "name: other"))
    assert "approved before" not in command("approve", study, "--check").out


def test_check_approves_nothing(command: Command, config: ClinicConfig, study: Path) -> None:
    done = command("approve", study, "--check")
    assert (done.code, approved(config), config.worker_state.exists()) == (0, (), False)
    assert "nothing was approved" in done.out


def test_a_digest_alone_comes_with_a_warning(command: Command, config: ClinicConfig) -> None:
    done = command("approve", DIGEST, "--by", "Dr. Ö")
    assert "the digest alone says nothing of the study" in done.err
    assert approved(config)[0].by == "Dr. Ö"
    assert command("approve", DIGEST[:20]).code == 3
    assert command("approve", DIGEST[:20]).err.count("\n") == 1


def test_studies_lists_approvals_and_what_the_file_approves(
    command: Command, tmp_path: Path, config: ClinicConfig
) -> None:
    assert "no study is approved" in command("studies").out
    command("approve", DIGEST)
    other = a_clinic(tmp_path, policy={"epsilon": 3.0, "studies": ["f" * 64]})
    done = command("studies", "--config", other.path)
    assert [line[:64] for line in done.out.splitlines()] == [DIGEST, "f" * 64]
    content = json.loads(command("studies", "--json").out)
    assert content["policy"] == ["f" * 64, DIGEST]
    assert [approval["digest"] for approval in content["approvals"]] == [DIGEST]


# How often, and at what cost.


def test_approve_shows_runs_and_epsilon_and_what_is_left(command: Command, config: ClinicConfig, private: Path) -> None:
    whole = plan_of(PRIVATE).epsilon
    spend(config, 1, run="an earlier one")
    done = command("approve", private, "--runs", 2)
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert f"at most ε = {whole:.4g} of this clinic's data a run" in said
    assert "runs 2, of which 1 has begun" in said
    both = epsilon_of_runs(plan_of(PRIVATE), 2)
    assert f"ε, all runs at most {both:.4g} for all 2 together, at δ = 1e-05; " in said
    assert "ε, clinic 3 for all studies, at δ = 1e-05; " in said
    assert f"by it: 2 runs, ε {both:.4g} in all" in said


def test_approve_says_no_where_a_whole_run_does_not_fit(command: Command, config: ClinicConfig, private: Path) -> None:
    whole = plan_of(PRIVATE).epsilon
    tight = a_clinic(config.folder, policy={"epsilon": whole * 0.99})
    for options in ((), ("--runs", 3)):
        done = command("approve", private, *options)
        assert done.code == 9
        assert (
            "not approved: too little is left of these patients' ε for all that a run of this study still asks"
            in done.err
        )
        assert f"of ε = {whole * 0.99:.6g} at δ = 1e-05, 0 is spent" in done.err
    checked = command("approve", private, "--check")
    assert (checked.code, "It would not be approved: too little is left" in checked.err) == (0, True)
    assert approved(tight) == ()
    a_clinic(config.folder, policy={"epsilon": whole})
    assert command("approve", private).code == 0
    spend(config, 1)
    assert command("approve", private).code == 0, "the run that it is for has begun, and is not asked for once more"
    assert command("approve", private, "--runs", 2).code == 9


def test_approve_says_no_where_the_stated_epsilon_is_less_than_a_run(
    command: Command, config: ClinicConfig, private: Path
) -> None:
    done = command("approve", private, "--epsilon", 0.3)
    assert done.code == 9
    assert "too little is left of the ε that this clinic has approved" in done.err
    assert command("approve", private, "--epsilon", 2.9).code == 0
    assert approved(config)[0].epsilon == 2.9
    assert command("approve", private, "--runs", 0).code == 2


def test_revoke_takes_a_prefix(command: Command, config: ClinicConfig) -> None:
    command("approve", DIGEST)
    done = command("revoke", DIGEST[:6])
    assert (done.code, done.out) == (0, f"revoked {DIGEST}\n")
    assert approved(config) == ()
    again = command("revoke", DIGEST[:6])
    assert (again.code, again.err.count("\n")) == (11, 1)
