"""`melfed-client approve`, `revoke`, `studies`: what they print, and how they leave."""

import json
from pathlib import Path

import pytest

from melfed.client.approval.approvals import approved
from melfed.client.approval.run_budget import epsilon_of_runs
from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import prepare_worker
from melfed.client.doctor.budget import budgets
from melfed.client.privacy.accounting import Mechanism, epsilon
from melfed.client.privacy.plan import plan_of
from melfed.client.worker.guard import Guard, Protection
from melfed.common.study.file import study_yaml
from melfed.common.study.protocol import ModelSpec, StudyProtocol
from tests.client.clinics import a_clinic
from tests.client.commands import Command
from tests.client.guards import DATA, Work, request
from tests.client.small import small_study
from tests.common.lesions import touch, write

DIGEST = "0123456789abcdef" * 4


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClinicConfig:
    monkeypatch.setenv("MELFED_CLINIC", str(tmp_path / "clinic.yaml"))
    monkeypatch.setenv("SUDO_USER", "it")
    return a_clinic(tmp_path)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def study(config: ClinicConfig) -> Path:
    demo = StudyProtocol(name="demo", model=ModelSpec(backbone="simple_cnn", pretrained=False))
    path = config.folder / "study.yaml"
    path.write_text(study_yaml(demo), encoding="utf-8")
    return path


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

PRIVATE = small_study(privacy={"unit": "patient", "noise_multiplier": 8.0, "recipe": "manual"})


@pytest.fixture
def private(config: ClinicConfig) -> Path:
    path = config.folder / "private.yaml"
    path.write_text(study_yaml(PRIVATE), encoding="utf-8")
    return path


def spend(config: ClinicConfig, *rounds: int, run: str = "run", study: StudyProtocol = PRIVATE) -> None:
    prepare_worker(config)
    guard = Guard(study, Protection(config.ledger), DATA)
    for number in rounds:
        guard.pay("training", request(round_number=number, run=run), Work())


def of_study(content: dict) -> dict:
    (account,) = content if isinstance(content, list) else content["accounts"]
    return account


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


def test_the_doctor_says_which_approved_study_could_not_be_ended(
    command: Command, config: ClinicConfig, private: Path
) -> None:
    assert budgets(config).status == "ok"
    command("approve", private)
    assert budgets(config).status == "ok"
    tight = a_clinic(config.folder, policy={"epsilon": plan_of(PRIVATE).epsilon * 0.99})
    found = budgets(tight)
    assert found.status == "warning"
    assert found.detail.startswith("study small, a run to come: too little is left of these patients' ε")
    spend(config, 1)
    assert budgets(tight).detail.startswith("study small, run run: too little is left of these patients' ε")
    spend(config, 2)
    (config.approvals / f"{PRIVATE.digest}.json").write_text("{}")
    assert budgets(tight).status == "failed"


def test_revoke_takes_a_prefix(command: Command, config: ClinicConfig) -> None:
    command("approve", DIGEST)
    done = command("revoke", DIGEST[:6])
    assert (done.code, done.out) == (0, f"revoked {DIGEST}\n")
    assert approved(config) == ()
    again = command("revoke", DIGEST[:6])
    assert (again.code, again.err.count("\n")) == (11, 1)


def test_without_a_clinic_the_places_are_told(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MELFED_CLINIC", raising=False)
    monkeypatch.setattr("melfed.client.config.clinic.PLACES", (Path("clinic.yaml"),))
    monkeypatch.chdir(tmp_path)
    done = command("studies")
    assert (done.code, done.out) == (11, "")
    assert "looked for clinic.yaml; name it with --config or MELFED_CLINIC" in done.err


@pytest.fixture
def odd(config: ClinicConfig) -> Path:
    """A data folder of the clinic whose table has a diagnosis that nobody knows."""
    data = config.folder / "data"
    write(data / "table.csv", "image,diagnosis,patient_id", "1.png,melanoma,1", "2.png,nevus,2", "3.png,Klasse 7,3")
    touch(data, "1.png", "2.png", "3.png")
    return data


def with_data(config: ClinicConfig, **section: object) -> ClinicConfig:
    return a_clinic(config.folder, data={"folder": "data", **section})


@pytest.mark.parametrize("what", ["study", "digest"])
def test_approve_says_no_to_diagnoses_that_nobody_knows(
    command: Command, config: ClinicConfig, study: Path, odd: Path, what: str
) -> None:
    here = with_data(config)
    done = command("approve", study if what == "study" else DIGEST)
    assert (done.code, approved(here)) == (4, ())
    assert "'Klasse 7' (1)" in done.err
    assert "NOT KNOWN: map it" in done.out
    assert command("approve", study, "--check").code == 4


@pytest.mark.parametrize("code", ["mel", "leave_out"])
def test_approve_shows_how_the_table_is_read(
    command: Command, config: ClinicConfig, study: Path, odd: Path, code: str
) -> None:
    here = with_data(config, diagnoses={"klasse 7": code})
    done = command("approve", study)
    assert (done.code, len(approved(here))) == (0, 1)
    assert "Klasse 7" in done.out
    assert "patient_id" in done.out
    shown = json.loads(command("approve", study, "--check", "--json").out)
    assert shown["approval"] is None
    assert {use["word"]: use["code"] for use in shown["understood"]["words"]}["melanoma"] == "mel"
    assert json.loads(command("approve", study, "--json").out)["approval"]["by"] == "it"
