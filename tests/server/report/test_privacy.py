"""The report of a private study: who is protected, at what cost, and all that left the clinics."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from melfed.common.errors import RunError
from melfed.common.study.protocol import PrivacySpec
from melfed.server.report.page import write_report
from melfed.server.report.words import SYNTHETIC
from melfed.server.runs.folder import RunFolder
from tests.server.fake_run import CHOICES, CLINICS, NOISED, PRIVATE, PUBLIC, FakeRun
from tests.server.report.reading import Reader, path_of
from tests.server.report.test_page import HOSTILE, USED, report, rows, words

DECLINED = "ε 0.4 of 4 is left for these patients, the round costs 0.6"
OFF = PrivacySpec(unit="patient", noise_multiplier=0.0, evaluation="public")
LESION = PrivacySpec(unit="lesion", epsilon=3.0, evaluation="public")

Changed = Callable[[dict[str, object]], None]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    run = FakeRun(
        privacy=PRIVATE,
        choices=CHOICES,
        warnings=("vienna_dias: δ is not below 1/N, N is 90",),
        public=PUBLIC,
        declined={"vienna_dias": DECLINED},
        failed={"rosendahl": "no answer within 900 s"},
        groups_by="patient",
    )
    folder = run.write(tmp_path_factory.mktemp("runs") / "run")
    return folder, write_report(folder).read_text(encoding="utf-8")


def section(page: str, name: str = "privacy") -> str:
    return words(page.partition(f'<section id="{name}"')[2].partition("</section>")[0])


def rewritten(folder: RunFolder, change: Changed) -> str:
    """The page after a change of summary.json."""
    path = folder.path / "summary.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return write_report(folder).read_text(encoding="utf-8")


def test_privacy_stands_in_the_head_and_after_the_result(private: tuple[RunFolder, str]) -> None:
    text = words(private[1])
    head = "Every patient in training is protected: ε = 3 (spent 2.99) at δ = 1e-5."
    assert text.index(head) < text.index("Result") < text.index("AUROC, all clinics pooled")
    assert '<a href="#privacy">Privacy</a>' in private[1]
    assert private[1].index('id="result"') < private[1].index('id="privacy"') < private[1].index('id="clinics"')
    assert "no differential privacy" not in text


def test_a_study_without_privacy_has_no_such_section(tmp_path: Path) -> None:
    page = report(FakeRun(), tmp_path)
    assert 'id="privacy"' not in page
    assert "#privacy" not in page
    assert "no differential privacy" in words(page)


def test_the_mechanism_is_told(private: tuple[RunFolder, str]) -> None:
    found = {row[0]: row[1] for row in rows(private[1], "privacy") if len(row) == 3}
    expected = {"Noise multiplier σ": "8.213", "Sampling rate q": "0.5", "Clipping norm C": "1", "Steps": "40"}
    assert {name: found[name] for name in expected} == expected
    assert (found["Views"], found["δ"], found["Accountant"]) == ("4", "1e-5", "PLD")
    assert found["Neighbouring data"] == "add or remove"
    assert "σ of histograms" not in found


def test_each_clinic_has_its_ledger(private: tuple[RunFolder, str]) -> None:
    folder, page = private
    privacy = folder.summary().privacy
    assert privacy is not None
    found = {row[0]: row[1:] for row in rows(page, "privacy") if row[0] in CLINICS}
    assert set(found) == set(CLINICS)
    for clinic in privacy.clinics:
        spent, head = found[clinic.name]
        assert float(spent) == pytest.approx(clinic.epsilon, abs=0.01)
        assert float(spent) >= (clinic.epsilon or 0)
        assert clinic.ledger_head.startswith(head.rstrip("…"))
        assert clinic.ledger_head in page


def test_a_clinic_without_an_account_is_not_left_out(private: tuple[RunFolder, str], tmp_path: Path) -> None:
    folder = FakeRun(privacy=PRIVATE).write(tmp_path / "run")

    def drop(content: dict[str, object]) -> None:
        content["privacy"]["clinics"] = content["privacy"]["clinics"][1:]  # type: ignore[index]

    page = rewritten(folder, drop)
    assert [row for row in rows(page, "privacy") if row[0] == "rosendahl"] == [["rosendahl", "no account given", "–"]]


def test_all_that_leaves_is_in_the_table(private: tuple[RunFolder, str]) -> None:
    folder, page = private
    privacy = folder.summary().privacy
    assert privacy is not None
    assert len(privacy.released) > 8
    found = rows(page, "privacy")
    for row in privacy.released:
        assert [row.quantity, row.protection, row.cost] in found


def test_recipe_public_data_and_warnings_are_told(private: tuple[RunFolder, str]) -> None:
    text = section(private[1])
    for choice in CHOICES:
        assert [choice.key, str(choice.value), choice.reason] in rows(private[1], "privacy")
    assert "the model of study isic-public (digest abababababab), trained on 7,529 images of: MSK, UDA, SONIC" in text
    assert "nothing protects them here" in text
    assert text.index("Warning: vienna_dias: δ is not below 1/N, N is 90") < text.index("Noise multiplier")
    assert "Initial weights" in section(private[1], "study")


def test_declined_and_failed_are_apart_and_there_is_no_loss(private: tuple[RunFolder, str]) -> None:
    head, first, second, *_ = rows(private[1], "training")
    assert "Training loss" not in head
    assert head[-2:] == ["Did not answer, and why", "Declined, and why"]
    assert first[-3:] == ["4 of 4", "–", "–"]
    assert second[-3:] == ["2 of 4", "rosendahl: no answer within 900 s", f"vienna_dias: {DECLINED}"]
    assert "<h3>Training loss</h3>" not in private[1]
    assert "<h3>Validation</h3>" in private[1]


def test_rounds_with_and_without_a_loss_are_told_apart(tmp_path: Path) -> None:
    folder = FakeRun(rounds=3).write(tmp_path / "run")

    def forget(content: dict[str, object]) -> None:
        content["rounds"][1]["train_loss"] = None  # type: ignore[index]

    page = rewritten(folder, forget)
    assert [row[1] for row in rows(page, "training")[1:]][1] == "–"
    figure = page.split("<h3>Training loss</h3>")[1].split("</figure>")[0]
    assert figure.count("<title>Round ") == 2


def test_exact_counts_are_called_unprotected(private: tuple[RunFolder, str]) -> None:
    assert "no part of what a clinic sends" in section(private[1], "data")
    said = section(private[1], "clinics")
    # Two numbers of the training part have noise of 9 each: 9 √2; four clinics' sums twice as much.
    assert "Training data are counted in patients, whose numbers each clinic told once, with noise of about 13 " in said
    assert "13 (9 on those with a melanoma); the sums have noise of about 25 (18)." in said
    assert "The numbers of the test part are exact: the study declares these images public" in said


@pytest.mark.parametrize("unit", ["lesion", "image"])
def test_a_weaker_unit_is_said_plainly(tmp_path: Path, unit: str) -> None:
    privacy = PrivacySpec.model_validate({"unit": unit, "epsilon": 3.0, "evaluation": "public"})
    page = report(FakeRun(privacy=privacy), tmp_path)
    assert f"Every {unit} in training (not every patient) is protected" in words(page)
    assert f"two {unit}s count as two" in words(page)
    assert f"Two {unit}s of one patient count as two, so a patient with several is protected less" in section(page)
    assert f"Patients with several {unit}s" in section(page)


def test_noise_that_is_off_is_no_privacy(tmp_path: Path) -> None:
    page = report(FakeRun(privacy=OFF, synthetic=True), tmp_path)
    text = words(page)
    assert text.index(SYNTHETIC) < text.index("No privacy: the noise is off") < text.index("AUROC, all clinics pooled")
    assert "is protected: ε" not in text
    assert {row[1] for row in rows(page, "privacy") if row[0] in CLINICS} == {"unbounded"}
    assert "No protection" in section(page)
    assert "What ε says" not in section(page)
    assert "no bound: there is no noise" in section(page)


def test_a_public_start_without_privacy_is_told_in_the_study(tmp_path: Path) -> None:
    page = report(FakeRun(public=PUBLIC), tmp_path)
    assert "the model of study isic-public" in section(page, "study")


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    folder = FakeRun(
        privacy=PRIVATE,
        choices=CHOICES,
        public=PUBLIC,
        clinics=HOSTILE,
        declined=dict(zip(HOSTILE, HOSTILE, strict=True)),
        warnings=HOSTILE,
    ).write(tmp_path / "run")

    def spoil(content: dict[str, dict[str, object]]) -> None:
        privacy = content["privacy"]
        privacy["recipe"] = [dict.fromkeys(("key", "value", "reason"), text) for text in HOSTILE]
        privacy["released"] = [dict.fromkeys(("quantity", "protection", "cost"), text) for text in HOSTILE]
        privacy["clinics"] = [{"name": t, "epsilon": 1.0, "ledger_head": t} for t in HOSTILE]
        content["public"] = {"study": HOSTILE[0], "digest": HOSTILE[1], "images": 1, "sources": list(HOSTILE)}

    page = rewritten(folder, spoil)  # type: ignore[arg-type]
    read = Reader(page)
    assert {tag for tag, _ in read.tags} <= set(USED)
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert words(page).count(" ".join(HOSTILE[0].split())) > 8


def test_every_link_and_table_of_the_page_is_whole(private: tuple[RunFolder, str]) -> None:
    tags = Reader(private[1]).tags
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(set(ids)) == len(ids)
    assert {f"#{i}" for i in ids} >= {a["href"] for tag, a in tags if tag == "a"}
    names = [tag for tag, _ in tags]
    assert names.count("table") == names.count("caption") == 9
    assert write_report(private[0]).read_text(encoding="utf-8") == private[1]


@pytest.fixture(scope="module")
def noised(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    run = FakeRun(privacy=NOISED, images=(2400, 1400, 60, 0), rounds=2, groups_by="patient")
    folder = run.write(tmp_path_factory.mktemp("runs") / "run")
    return folder, write_report(folder).read_text(encoding="utf-8")


def test_noised_curves_are_drawn_and_no_calibration_where_the_run_has_none(noised: tuple[RunFolder, str]) -> None:
    page = noised[1]
    for title in ("ROC curve", "Precision and recall", "Scores by class", "AUROC by clinic", "Validation"):
        figure = page.split(f"<h3>{title}</h3>")[1].split("</figure>")[0]
        assert "<path" in figure, title
    assert 'id="calibration"' not in page
    assert "Brier" not in page


def test_the_noised_roc_curve_has_the_area_of_its_auroc(noised: tuple[RunFolder, str]) -> None:
    folder, page = noised
    figure = page.split("<h3>ROC curve</h3>")[1].split("</figure>")[0]
    x, y = path_of(figure).T
    area = float(((x[1:] - x[:-1]) * (y[0] - (y[1:] + y[:-1]) / 2)).sum())
    expected = folder.summary().test.auroc.value
    assert area / ((x[-1] - x[0]) * (y[0] - y[-1])) == pytest.approx(expected, abs=0.01)


def test_noised_counts_are_called_estimates_of_units(noised: tuple[RunFolder, str]) -> None:
    folder, page = noised
    test, text = folder.summary().test, words(page)
    assert f"Patients with melanoma in test≈ {test.melanomas:,}in about {test.images:,} patients, estimated" in text
    assert rows(page, "clinics")[0][1:3] == ["All data", "Test part"]
    assert rows(page, "clinics")[1][1:5] == ["Patients", "With melanoma"] * 2
    assert all(cell.startswith("≈ ") for row in rows(page, "clinics")[2:] for cell in row[1:5])
    assert "≈: not exact." in section(page, "clinics")
    assert "estimates from noisy histograms, which count every patient once" in section(page, "clinics")
    assert "Melanomas in test" not in text


def test_what_the_noise_hides_is_not_said_to_be_absent(noised: tuple[RunFolder, str]) -> None:
    _, small, absent = rows(noised[1], "clinics")[3:6]
    assert small[5:] == ["undefinedtoo few patients in test for the noise"]
    assert absent[5].startswith("undefined")
    assert "no melanoma" not in words(noised[1])
    assert "nan" not in words(noised[1]).lower().split()


def test_noise_is_said_to_be_in_the_intervals(noised: tuple[RunFolder, str], private: tuple[RunFolder, str]) -> None:
    text = section(noised[1], "meaning")
    assert "noisy counts of scores in 128 bins" in text
    assert "the noise is part of each interval" in text
    assert "at most 4,096 bins" not in text
    assert "Each patient counts once" in text
    assert "at most 4,096 bins" in section(private[1], "meaning")
    assert "Each patient counts once" not in section(private[1], "meaning")


def test_noised_histograms_stand_in_the_table_with_their_noise(noised: tuple[RunFolder, str]) -> None:
    found = {row[0]: row[1:] for row in rows(noised[1], "privacy")}
    assert found["σ of histograms"][0] == "4"
    assert found["σ of counts"][0] == "9"
    assert found["Histograms of the scores of the validation images: 2 releases"][1] == "part of ε"
    assert "Every patient is protected: ε = 3" in words(noised[1])


def test_declared_figures_are_told_from_noised_ones(tmp_path: Path) -> None:
    some = FakeRun(privacy=NOISED, declared=("rosendahl", "vienna_dias"), deployed=True).write(tmp_path / "some")
    page = write_report(some).read_text(encoding="utf-8")
    said = section(page, "clinics")
    assert "counted in patients, whose numbers each clinic told once, with noise of about 22 (16 on those" in said
    assert "rosendahl and vienna_dias stated public figures in their place, without noise." in said
    assert "rosendahl and vienna_dias stated public figures" in section(page, "data")
    every = FakeRun(privacy=NOISED, declared=CLINICS, deployed=True).write(tmp_path / "every")
    page = write_report(every).read_text(encoding="utf-8")
    said = "All data are counted in patients: public figures that the clinics state, without noise."
    assert said in section(page, "clinics")
    assert rows(page, "clinics")[1][1:3] == ["Patients", "With melanoma"]
    assert "σ of counts" not in section(page)


def test_a_deployed_private_run_names_no_number_of_images(tmp_path: Path) -> None:
    run = FakeRun(privacy=PrivacySpec(unit="lesion", epsilon=3.0), deployed=True)
    folder = run.write(tmp_path / "run")
    page, data = write_report(folder).read_text(encoding="utf-8"), folder.summary().data
    said = section(page, "data")
    told = f"about {data.groups:,} lesions, about {data.melanomas:,} of them with a melanoma"
    assert f"{told}, with noise of about 44 (31 on the latter)" in said
    assert "Splits go by lesion, which is what the study protects" in said
    assert not re.search(r"\d images", said)
    public = FakeRun(privacy=LESION, deployed=True).write(tmp_path / "public")
    page = write_report(public).read_text(encoding="utf-8")
    assert "lesions for training, about" in section(page, "data")
    assert rows(page, "clinics")[0][1:3] == ["Training data", "Test part"]
    assert re.search(r"in [\d,]+ test images of [\d,]+ groups", words(page))


def test_a_run_of_melfed_0_1_is_read_and_said_to_have_rounded_counts(tmp_path: Path) -> None:
    folder = FakeRun(privacy=NOISED, groups_by="patient").write(tmp_path / "run")

    def older(content: dict[str, Any]) -> None:
        for clinic in content["clinics"]:
            del clinic["counted"]
            clinic["images"] = 10 * round(clinic["patients"] / 5)
        del content["data"]["counted"], content["privacy"]["count_noise_multiplier"]
        content["study"]["digest"] = "a1" * 32

    text = (folder.path / "study.yaml").read_text(encoding="utf-8")
    text = text.replace("protocol: 2", "protocol: 1").replace(
        "  evaluation: noised", "  evaluation: noised\n  smallest_cell: 20"
    )
    (folder.path / "study.yaml").write_text(text, encoding="utf-8")
    page = rewritten(folder, older)
    assert {clinic.counted.how for clinic in folder.summary().clinics} == {"rounded"}
    assert folder.summary().data.counted.how == "exact", "it is of a folder"
    assert "as the clinics told them to melfed 0.1: rounded, part by part." in section(page, "clinics")
    assert rows(page, "clinics")[1][1:4] == ["Patients", "Images", "Melanomas"]


def test_histograms_against_the_study_are_refused(tmp_path: Path, noised: tuple[RunFolder, str]) -> None:
    folder = FakeRun(privacy=PRIVATE).write(tmp_path / "run")
    event = next(event for event in noised[0].events() if event["event"] == "test")
    folder.append(event | {"clinic": "another"})
    with pytest.raises(RunError, match=r"metrics\.jsonl: test scores of 'another': with noise, against the study"):
        write_report(folder)


@pytest.mark.parametrize(("share", "said"), [(0.0, "the model after the last round"), (0.4, "the last 2 rounds")])
def test_the_model_that_was_scored_is_named(tmp_path: Path, share: float, said: str) -> None:
    assert said in section(report(FakeRun(tail_average=share), tmp_path), "meaning")
