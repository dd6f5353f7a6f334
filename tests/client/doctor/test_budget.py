"""Whether what each approved study will still ask is left."""

from pathlib import Path

from melfed.client.config.clinic import ClinicConfig
from melfed.client.doctor.budget import budgets
from melfed.client.privacy.plan import plan_of
from tests.client.approving import PRIVATE, spend
from tests.client.clinics import a_clinic
from tests.client.commands import Command


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
