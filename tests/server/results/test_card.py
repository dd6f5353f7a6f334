"""The card says what the run's folder says, in both forms, and nothing in it is markup of somebody else."""

import json
from pathlib import Path

import pytest

from melfed.common.errors import RunError
from melfed.common.study.protocol import PrivacySpec
from melfed.server.results.card import NAMES, card, markdown, write_card
from melfed.server.runs.folder import RunFolder
from tests.server.fake_run import NOISED, PRIVATE, PUBLIC, FakeRun
from tests.server.finished import study_with
from tests.server.report.test_brought import with_own
from tests.server.report.test_calibration import ENOUGH, POINTS
from tests.server.report.test_subgroups import FOUND


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


def test_subgroups_and_what_the_federation_brought_are_on_it_where_the_run_has_them(tmp_path: Path) -> None:
    folder = FakeRun(failed={"rosendahl": "offline"}, synthetic=True).write(tmp_path / "run")
    folder.write_summary(with_own(folder.summary(), 0.6, None).model_copy(update={"subgroups": FOUND}))
    folder.write_sums()
    content, text = card(folder), markdown(card(folder))
    sex = content["subgroups"]["attributes"][0]
    assert sex["cells"]["male"]["auroc"] == {"value": 0.8123, "low": 0.7512, "high": 0.8634}
    assert sex["cells"]["unknown"]["too_few"]
    assert (sex["gaps"][0]["lowest"], sex["gaps"][0]["gap"]["high"]) == ("male", 0.21)
    assert "| male | 1200 | 150 | 0.812 (0.751–0.863) | 0.700 (0.620–0.770) | -0.021 (-0.050 to 0.008) |" in text
    assert "| unknown | 3 | 0 | too few | too few | too few |" in text
    assert r"- Largest gap of auroc: 0.100 (0.000–0.210), from male to \<b\>" in text
    missing = {"clinic": "rosendahl", "kind": "failed", "rounds": [2], "reason": "offline"}
    assert content["federation"]["not_learnt_from"] == [missing]
    first, second = content["federation"]["gains"]
    assert (first["clinic"], first["alone"]["value"], second["gain"]["value"]) == ("vidir_molemax", 0.6, None)
    assert "- The model has not learnt in every round from rosendahl (failed in round 2: offline)." in text
    assert r"| vidir\_molemax | 0.600 (0.560–0.630) | " in text
    assert r"| vidir\_modern | undefined | " in text


def test_a_run_that_has_neither_says_nothing_of_them(tmp_path: Path) -> None:
    content = card(FakeRun().write(tmp_path / "run"))
    assert (content["subgroups"], content["federation"]) == (None, None)
    text = markdown(content)
    for heading in ("Subgroups", "What the federation brought", "Calibration on the pooled test parts"):
        assert f"## {heading}" not in text


@pytest.mark.parametrize("privacy", [None, NOISED])
def test_calibration_stands_before_and_after_the_map(tmp_path: Path, privacy: PrivacySpec | None) -> None:
    content = card(FakeRun(points=POINTS, privacy=privacy, **ENOUGH).write(tmp_path / "run"))
    found = content["results"]["calibration_on_test"]
    text = markdown(content)
    assert "| calibration | before the map | after the map |" in text
    for which in ("before", "after"):
        error = found[which]["calibration_error"]
        assert f"{error['value']:.3f} ({error['low']:.3f}–{error['high']:.3f})" in text


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
