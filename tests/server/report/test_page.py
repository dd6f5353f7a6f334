import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from melfed.common.errors import RunError
from melfed.server.report.page import LISTED_IMAGES, LISTED_ROUNDS, write_report
from melfed.server.report.words import NOTICE, PARTLY_SYNTHETIC, SYNTHETIC, traffic
from melfed.server.runs.folder import RunFolder
from tests.server.fake_run import CLINICS, FakeRun
from tests.server.report.reading import Reader, path_of

REPOSITORY = Path(__file__).resolve().parent.parent.parent
HOSTILE = (
    "<script>alert(1)</script>",
    "</style></svg></title><img src=x onerror=alert(1)>",
    '" onload="alert(1)" x=\'',
    "&lt;b&gt; ]]> --> Ünïté 東京 \u202e",
)
USED = re.findall(
    r"\w+",
    "html head meta style body header main section footer nav h1 h2 h3 p ul li a div span table caption thead tbody tr "
    "th td small figure figcaption dl dt dd details summary pre code bdi svg g defs use path text title",
)


def report(run: FakeRun, path: Path) -> str:
    return write_report(run.write(path / "run")).read_text(encoding="utf-8")


def words(page: str) -> str:
    """The page's text without its style sheet, blanks collapsed."""
    return " ".join(Reader(re.sub(r"<style>.*?</style>", "", page, flags=re.S)).words.split())


def rows(page: str, section: str) -> list[list[str]]:
    """Text of the cells of a section's tables."""
    part = page.partition(f'<section id="{section}"')[2].partition("</section>")[0]
    found = re.findall(r"<tr.*?</tr>", part, flags=re.S)
    return [[words(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, flags=re.S)] for row in found]


@pytest.fixture(scope="module")
def federated(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    folder = FakeRun(failed={"rosendahl": "no answer within 900 s"}).write(tmp_path_factory.mktemp("runs") / "run")
    return folder, write_report(folder).read_text(encoding="utf-8")


def test_sections_stand_in_order(federated: tuple[RunFolder, str]) -> None:
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", federated[1])
    others = ["Clinics", "Training", "Data", "Study", "What the numbers mean"]
    assert headings == ["Result", "Curves", "Calibration", *others]
    titles = re.findall(r"<h3>(.*?)</h3>", federated[1])
    curves = ["ROC curve", "Precision and recall", "Scores by class", "Decision curve"]
    others = ["Beside published figures of doctors", "Calibration of the probabilities", "AUROC by clinic"]
    others += ["Training loss", "Validation"]
    assert titles[-9:] == [*curves, *others]


def test_headline_is_the_pooled_result(federated: tuple[RunFolder, str]) -> None:
    folder, page = federated
    test, text = folder.summary().test, words(page)
    for interval in (test.auroc, test.auprc, test.balanced_accuracy):
        assert f"{interval.value:.3f}95 % interval {interval.low:.3f} to {interval.high:.3f}" in text
    assert f"Guessing reaches {test.melanomas / test.images:.3f}, the share of melanomas" in text
    assert f"in {test.images:,} test images of {test.patients:,} lesions" in text
    assert text.count(NOTICE) == 2
    assert SYNTHETIC not in text


def test_table_has_a_row_a_clinic_and_one_for_all(federated: tuple[RunFolder, str]) -> None:
    folder, page = federated
    summary = folder.summary()
    head, *clinics, total = rows(page, "clinics")[1:]
    assert head == ["Clinic", "Lesions", "Images", "Melanomas", "Images", "Melanomas", "AUROC", "AUPRC"]
    assert [row[0] for row in clinics] == list(CLINICS)
    for row, clinic in zip(clinics, summary.clinics, strict=True):
        assert row[1:4] == [f"{n:,}" for n in (clinic.patients, clinic.images, clinic.melanomas)]
        assert row[6] == f"{clinic.test.auroc.value:.3f}{clinic.test.auroc.low:.3f}–{clinic.test.auroc.high:.3f}"
    assert total[0] == "All pooled"
    assert total[2] == f"{summary.data.images:,}"
    assert total[7].startswith(f"{summary.test.auprc.value:.3f}")


def test_rounds_are_listed_with_traffic_and_reasons(federated: tuple[RunFolder, str]) -> None:
    _, *found = rows(federated[1], "training")
    assert [row[0] for row in found] == ["1", "2", "3", "4", "5"]
    assert found[0][5:] == ["54.04", "54.04", "4 of 4", "–"]
    assert found[1][7:] == ["3 of 4", "rosendahl: no answer within 900 s"]


def test_a_report_says_how_clinics_told_their_updates(federated: tuple[RunFolder, str]) -> None:
    folder, page = federated
    study, rounds = folder.study(), folder.summary().rounds
    assert traffic(rounds, study) in words(page)
    assert "(updates in" not in words(page)
    told = study.with_changes("federation", compression="int8")
    assert traffic(rounds, told).startswith("270 MB from the clinics (updates in int8), ")


def test_data_study_and_meaning_are_told(federated: tuple[RunFolder, str]) -> None:
    folder, page = federated
    text = words(page)
    assert "Splits go by lesion, as the data names no patients" in text
    assert ["images/ISIC_0000007.jpg", "truncated"] in rows(page, "data")
    assert folder.study().digest in text
    assert "positive_weight: 1.0" in text
    assert "flwr 1.41.0" in text
    assert "21 min 52 s" in text
    assert "Pooled, not averaged" in text
    assert "at most 4,096 bins" in text
    assert "rounded predictions, which is balanced accuracy" in text
    assert "no differential privacy" in text


def test_curves_are_of_the_pooled_scores(federated: tuple[RunFolder, str]) -> None:
    folder, page = federated
    curves = page.split('<section id="curves"')[1].split("</section>")[0]
    assert curves.count("<svg") == 5
    pixels = path_of(curves)
    x, y = pixels[[0, -1]].T
    assert x[0] < x[1]
    assert y[0] > y[1]
    area = sum((b[0] - a[0]) * (pixels[0][1] - (a[1] + b[1]) / 2) for a, b in pairwise(pixels))
    expected = folder.summary().test.auroc.value
    assert area / ((x[1] - x[0]) * (y[0] - y[1])) == pytest.approx(expected, abs=0.005)


def test_page_loads_nothing(federated: tuple[RunFolder, str]) -> None:
    page = federated[1]
    read = Reader(page)
    links = [v for _, attributes in read.tags for k, v in attributes.items() if k in ("src", "href", "data", "action")]
    assert links
    assert all(link is not None and link.startswith("#") for link in links)
    assert not re.search(r"url\(|@import|https?:", page)
    policy = next(a["content"] for tag, a in read.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert len(page) < 200_000


def test_every_link_has_its_target_and_every_table_its_caption(federated: tuple[RunFolder, str]) -> None:
    tags = Reader(federated[1]).tags
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(set(ids)) == len(ids)
    assert {f"#{i}" for i in ids} >= {a["href"] for tag, a in tags if tag == "a"}
    assert {a["aria-labelledby"] for _, a in tags if "aria-labelledby" in a} <= set(ids)
    names = [tag for tag, _ in tags]
    assert names.count("table") == names.count("caption") == 4
    images = [a for tag, a in tags if tag == "svg"]
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in images)


def test_the_same_run_gives_the_same_page(tmp_path: Path, federated: tuple[RunFolder, str]) -> None:
    assert write_report(federated[0]).read_text(encoding="utf-8") == federated[1]
    assert [path.name for path in federated[0].path.glob("*.html*")] == ["report.html"]


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    run = FakeRun(
        clinics=HOSTILE,
        failed=dict(zip(HOSTILE, HOSTILE, strict=True)),
        left_out=[(text, text) for text in HOSTILE],
        groups_by=HOSTILE[0],
        mode="federated",
    )
    folder = run.write(tmp_path / "run")
    content = json.loads((folder.path / "summary.json").read_text(encoding="utf-8"))
    content["study"]["name"] = content["device"] = content["data"]["folder"] = content["data"]["layout"] = HOSTILE[1]
    content["versions"] = {HOSTILE[0]: HOSTILE[2]}
    (folder.path / "summary.json").write_text(json.dumps(content), encoding="utf-8")
    page = write_report(folder).read_text(encoding="utf-8")
    read = Reader(page)
    assert {tag for tag, _ in read.tags} <= set(USED)
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert [row[0] for row in rows(page, "clinics")[2:-1]] == [" ".join(text.split()) for text in HOSTILE]
    assert f"{HOSTILE[1]}: melfed report" in words(page)


def test_one_class_is_undefined_with_its_reason(tmp_path: Path) -> None:
    page = report(FakeRun(images=(300, 40, 30, 0), melanoma_rates=(0.3, 0, 1, 0)), tmp_path)
    healthy, ill, absent = rows(page, "clinics")[3:6]
    assert healthy[6:] == ["undefinedno melanoma in test"]
    assert ill[6:] == ["undefinednothing but melanomas in test"]
    assert absent[6:] == ["undefinedno test image was evaluated"]
    assert "nan" not in words(page).lower().split()


@pytest.mark.parametrize("images", [0, 9])
def test_a_run_without_melanomas_has_a_report(tmp_path: Path, images: int) -> None:
    page = report(FakeRun(images=(images,) * 4, melanoma_rates=(0,) * 4, rounds=1), tmp_path)
    reason = "no melanoma in test" if images else "no test image was evaluated"
    assert words(page).count(f"Because: {reason}.") == 3
    assert f"Not drawn: {reason}." in words(page)


def test_what_is_not_defined_is_said_once_a_line(tmp_path: Path) -> None:
    page = report(FakeRun(images=(0,) * 4, melanoma_rates=(0,) * 4, rounds=1), tmp_path)
    assert all("".join(row).count("undefined") == 1 for row in rows(page, "clinics")[2:])
    assert words(page).count("Sensitivity at 90 % and at 95 % specificityundefined") == 1


def test_a_threshold_that_tells_nothing_apart_is_explained(tmp_path: Path) -> None:
    page = report(FakeRun(shift=-20.0), tmp_path)
    balanced = words(page).split("Balanced accuracy at 0.5")[1].split("Melanomas in test")[0]
    assert balanced.startswith("0.500")
    assert "Because no image scores 0.5 or more, so that all get the same answer" in balanced
    assert "so that all get" not in report(FakeRun(), tmp_path / "usual")


def test_a_round_without_validation_leaves_a_gap(tmp_path: Path) -> None:
    folder = FakeRun(rounds=4).write(tmp_path / "run")
    content = json.loads((folder.path / "summary.json").read_text(encoding="utf-8"))
    content["rounds"][1]["validation"] = None
    for metric in ("auroc", "auprc"):
        content["rounds"][3]["validation"][metric] = dict.fromkeys(("value", "low", "high"))
    (folder.path / "summary.json").write_text(json.dumps(content), encoding="utf-8")
    page = write_report(folder).read_text(encoding="utf-8")
    assert rows(page, "training")[2][2] == "undefinednot evaluated"
    assert rows(page, "training")[4][2] == "undefined"
    validation = page.split("<h3>Validation</h3>")[1].split("</figure>")[0]
    assert len(re.findall("Round [0-9]: AUROC", validation)) == 2


def test_local_models_are_shown_everywhere(tmp_path: Path) -> None:
    page = report(FakeRun(mode="local"), tmp_path)
    top, head, first, *_, total = rows(page, "clinics")
    assert top == ["", "All data", "Test part", "Everywhere"]
    assert head[-2:] == ["AUROC", "AUPRC"]
    assert len(first) == len(total) == len(head) == 10
    assert total[-2:] == ["–", "–"]
    assert "Local baseline" in words(page)
    assert "Here they mix the scores of different models" in words(page)
    assert "↳ everywhere" in page
    assert "MB up" not in page


def test_central_baseline(tmp_path: Path) -> None:
    text = words(report(FakeRun(mode="central"), tmp_path))
    assert "Central baseline: one model trained on all clinics' images in one place" in text
    assert "all images are in one place" in text
    assert "Everywhere" not in text
    assert "MB up" not in text


def test_synthetic_images_are_announced_above_all_numbers(tmp_path: Path) -> None:
    page = report(FakeRun(synthetic=True), tmp_path)
    text = words(page)
    assert text.index(SYNTHETIC) < text.index("AUROC")
    assert "(synthetic images)" in re.findall("<title>(.*?)</title>", page)[0]


def test_a_deployed_run_on_synthetic_images_says_so_in_the_same_words(tmp_path: Path) -> None:
    run = FakeRun(deployed=True)
    text = words(page := report(replace(run, rendered=run.clinics), tmp_path))
    assert text.index(SYNTHETIC) < text.index("AUROC")
    assert "(synthetic images)" in re.findall("<title>(.*?)</title>", page)[0]
    assert SYNTHETIC not in report(run, tmp_path / "real")


def test_where_some_clinics_images_are_synthetic_it_says_whose(tmp_path: Path) -> None:
    run = FakeRun(deployed=True)
    text = words(report(replace(run, rendered=run.clinics[:1]), tmp_path))
    assert text.index(PARTLY_SYNTHETIC.format(run.clinics[0])) < text.index("AUROC")
    assert SYNTHETIC not in text


@pytest.mark.parametrize(
    ("groups_by", "column", "sentence"),
    [
        ("patient", "Patients", "all images of a patient are in one part"),
        ("lesion", "Lesions", "two lesions of one patient may stand on both sides"),
        ("duplicate group", "Duplicate groups", "names neither patients nor lesions"),
        ("lesion where known, else image", "Groups", "Splits go by lesion where known, else image:"),
    ],
)
def test_groups_have_their_own_word(tmp_path: Path, groups_by: str, column: str, sentence: str) -> None:
    page = report(FakeRun(groups_by=groups_by), tmp_path)
    assert rows(page, "clinics")[1][1] == column
    assert sentence in words(page)
    assert f"images of one {column[:-1].lower()} resemble each other" in words(page)


def test_images_are_not_counted_twice_where_they_are_the_groups(tmp_path: Path) -> None:
    page = report(FakeRun(groups_by="image"), tmp_path)
    assert rows(page, "clinics")[1] == ["Clinic", "Images", "Melanomas", "Images", "Melanomas", "AUROC", "AUPRC"]
    assert "Splits go by image" in words(page)
    assert "every image counts as independent" in words(page)


def test_long_lists_are_cut_with_a_count(tmp_path: Path) -> None:
    left_out = [(f"image-{number}.jpg", "empty file") for number in range(LISTED_IMAGES + 34)]
    page = report(FakeRun(left_out=left_out, rounds=LISTED_ROUNDS + 5), tmp_path)
    assert page.count("empty file") == LISTED_IMAGES
    assert "; 34 more are in summary.json" in page
    assert [row[0] for row in rows(page, "training")[1:]] == [str(n) for n in range(6, LISTED_ROUNDS + 6)]
    assert "left out234 images" in words(page).lower()


def test_unfinished_and_contradicting_runs_are_refused(tmp_path: Path) -> None:
    folder = FakeRun().write(tmp_path / "run")
    before = write_report(folder).read_bytes()
    events = (folder.path / "metrics.jsonl").read_text(encoding="utf-8")
    (folder.path / "metrics.jsonl").write_text(events.replace('"groups": [', '"groups": [-'), encoding="utf-8")
    with pytest.raises(RunError, match=r"metrics\.jsonl: test scores of 'vidir_molemax'.*negative"):
        write_report(folder)
    (folder.path / "study.yaml").write_text("name: other\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"summary\.json is of study"):
        write_report(folder)
    (folder.path / "summary.json").unlink()
    with pytest.raises(RunError, match="has not finished"):
        write_report(folder)
    assert folder.report.read_bytes() == before


def test_curves_without_recorded_scores_are_left_out(tmp_path: Path) -> None:
    folder = FakeRun().write(tmp_path / "run")
    (folder.path / "metrics.jsonl").unlink()
    page = write_report(folder).read_text(encoding="utf-8")
    assert "Not drawn: metrics.jsonl holds no test scores." in page


def test_importing_the_report_loads_nothing_heavy() -> None:
    heavy = ["torch", "matplotlib", "sklearn", "flwr"]
    code = f"import sys, melfed.server.report.page; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_whom_the_model_has_not_learnt_from_stands_in_the_head(tmp_path: Path) -> None:
    run = FakeRun(failed={"rosendahl": HOSTILE[0]}, declined={"vidir_modern": "spent"})
    head = report(run, tmp_path).partition("<main>")[0]
    said = f"rosendahl (failed in round 2: {HOSTILE[0]}), vidir_modern (declined in round 2: spent)"
    assert f"The model has not learnt in every round from {said}." in words(head)
    assert HOSTILE[0] not in head
