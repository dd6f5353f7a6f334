"""The card says what the run's folder says, in both forms, and nothing in it is markup of somebody else."""

import json
from pathlib import Path

import pytest

from melfed.common.errors import RunError
from melfed.server.results.card import NAMES, card, markdown, write_card
from melfed.server.runs.folder import RunFolder
from tests.server.fake_run import NOISED, PRIVATE, PUBLIC, FakeRun
from tests.server.finished import study_with


def test_a_private_run_says_its_epsilon_its_accountant_and_what_left(tmp_path: Path) -> None:
    folder = FakeRun(privacy=PRIVATE, public=PUBLIC, failed={"rosendahl": "offline"}, deployed=True).write(
        tmp_path / "r"
    )
    content, summary = card(folder), folder.summary()
    assert summary.privacy is not None
    assert content["privacy"]["epsilon_spent"] == summary.privacy.epsilon_spent
    assert "dp-accounting" in content["privacy"]["accountant"]
    assert len(content["privacy"]["released"]) == len(summary.privacy.released) > 0
    assert content["data"]["began_with_a_model_of"]["study"] == "isic-public"
    assert content["training"]["missed_rounds"] == {"rosendahl": [2]}
    limits = " ".join(content["limits"])
    assert "Clinic rosendahl took no part in 1 of 5 rounds" in limits
    assert "declared public: ε does not cover them" in limits
    assert "not calibrated" in limits
    assert "No medical device" in content["intended_use"]


def test_a_run_without_privacy_says_that_nobody_is_protected(tmp_path: Path) -> None:
    content = card(FakeRun(synthetic=True).write(tmp_path / "run"))
    assert content["privacy"] is None
    assert any(limit.startswith("No noise protects the patients") for limit in content["limits"])
    assert "The images are rendered: nothing follows for patients." in content["limits"]
    assert "trained without differential privacy" in markdown(content)


def test_what_the_noise_hides_is_undefined(tmp_path: Path) -> None:
    content = card(FakeRun(privacy=NOISED, images=(30, 20, 12, 8)).write(tmp_path / "run"))
    hidden = content["results"]["test_parts_pooled"]["auroc"]["value"] is None
    assert hidden == any("undefined" in limit for limit in content["limits"])
    assert hidden
    assert "| auroc | undefined |" in markdown(content)


def test_both_files_say_the_same_each_time(tmp_path: Path) -> None:
    folder = FakeRun(privacy=PRIVATE).write(tmp_path / "run")
    for _ in range(2):
        write_card(folder)
        written = [(folder.path / name).read_text() for name in NAMES]
        assert json.loads(written[0]) == json.loads(json.dumps(card(folder)))
        assert written[1] == markdown(card(folder))
    auroc = folder.summary().test.auroc
    assert f"| auroc | {auroc.value:.3f} ({auroc.low:.3f}–{auroc.high:.3f}) |" in written[1]


def test_a_clinic_cannot_put_markup_on_the_card(tmp_path: Path) -> None:
    name = "x](http://evil) | <b>*y*"
    folder = FakeRun(clinics=(name,), images=(300,), melanoma_rates=(0.3,)).write(tmp_path / "run")
    text = markdown(card(folder))
    assert r"x\](http://evil) \| \<b\>\*y\*" in text
    assert name not in text


def test_a_run_that_has_not_finished_has_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has not finished"):
        card(RunFolder.create(tmp_path / "run", study_with()))
