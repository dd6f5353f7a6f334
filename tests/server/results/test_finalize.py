"""What a finished run writes."""

import json
import subprocess
from pathlib import Path

import pytest

from melfed.common.errors import RunError
from melfed.common.study.protocol import FederationSpec, ModelSpec, PrivacySpec, StudyProtocol
from melfed.common.tensors import load_tensors
from melfed.server.results.finalize import Finished, finish, told_data
from melfed.server.runs.counts import Counts
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.server.runs.summary import AT_CLINICS, Counted, DataSummary, LeftOutImage, PublicData
from tests.server.fakes import scores_of
from tests.server.finished import network

COUNTS = Counts(
    numbers={
        f"{part}_{what}": number
        for part, images in (("train", 70), ("validation", 10), ("test", 20))
        for what, number in (("images", images), ("positives", images // 10), ("groups", images // 2))
    }
)
USED = PublicData(study="small", digest="1" * 64, images=200, sources=("a", "b"))


def study(**sections) -> StudyProtocol:
    return StudyProtocol(
        name="small",
        model=ModelSpec(backbone="simple_cnn", pretrained=False),
        federation=FederationSpec(rounds=1),
        **sections,
    )


def done(protocol: StudyProtocol, data: DataSummary, models: tuple[str, ...] = ("",)) -> Finished:
    model = network(protocol)
    tensors = {name: t.detach().numpy() for name, t in model.named_parameters() if t.requires_grad}
    test = {name: scores_of(name, "test", 20) for name in ("a", "b")}
    outcome = Outcome(dict.fromkeys(models, tensors), {"a": COUNTS, "b": COUNTS}, test)
    return Finished(protocol, model, outcome, data, USED, 12.0, "cpu")


def test_a_deployed_run_knows_of_its_data_what_clinics_told():
    data = told_data(study(), {"a": COUNTS, "b": COUNTS})
    assert (data.folder, data.layout) == ("2 clinics", AT_CLINICS)
    assert (data.images, data.melanomas, data.groups, data.groups_by) == (200, 20, 100, "group")
    assert data.left_out == ()
    assert told_data(study(), {"a": COUNTS}).folder == "1 clinic"


def test_what_clinics_said_of_their_images_origin_is_said_of_the_run():
    rendered = COUNTS.model_copy(update={"synthetic": True})
    for private in (None, PrivacySpec(unit="patient", epsilon=1.0)):
        of = study(privacy=private)
        neither, mixed, all_of_them = (
            told_data(of, {"a": one, "b": two})
            for one, two in ((COUNTS, COUNTS), (COUNTS, rendered), (rendered, rendered))
        )
        assert (neither.synthetic, neither.synthetic_clinics) == (False, ())
        assert (mixed.synthetic, mixed.synthetic_clinics) == (True, ("b",))
        assert (all_of_them.synthetic, all_of_them.synthetic_clinics) == (True, ())


def test_of_a_private_run_it_knows_units_with_their_noise_and_no_images():
    private = study(privacy=PrivacySpec(unit="lesion", epsilon=1.0))
    data = told_data(private, {"a": in_units(4.0), "b": in_units(3.0), "c": in_units(0.0)})
    assert (data.images, data.groups, data.melanomas, data.groups_by) == (None, 180, 18, "lesion")
    # Three parts of two numbers each at two clinics: 6 (4² + 3²), and half of that with a melanoma.
    assert (data.counted.how, data.counted.parts) == ("noised", "all")
    assert data.counted.patients_noise == pytest.approx(150**0.5)
    assert data.counted.melanomas_noise == pytest.approx(75**0.5)
    declared = told_data(private, {"c": in_units(0.0)})
    assert declared.counted == Counted(how="unnoised")


def test_with_a_public_evaluation_it_knows_the_units_of_training_alone():
    private = study(privacy=PrivacySpec(unit="patient", epsilon=1.0, evaluation="public"))
    exact = {name: count for name, count in COUNTS.numbers.items() if not name.startswith("train")}
    told = Counts(numbers={**exact, "train_units": 40, "train_positive_units": 5}, noise=9.0)
    data = told_data(private, {"a": told})
    assert (data.images, data.groups, data.melanomas) == (None, 40, 5)
    assert data.counted == Counted(how="noised", parts="training", patients_noise=2**0.5 * 9.0, melanomas_noise=9.0)


def in_units(noise: float) -> Counts:
    """Sixty units in all, six of them positive."""
    sizes = {"train": 40, "validation": 10, "test": 10}
    units = {f"{part}_units": size for part, size in sizes.items()}
    return Counts(numbers=units | {f"{part}_positive_units": size // 10 for part, size in sizes.items()}, noise=noise)


def test_models_summary_and_report_are_written(tmp_path):
    protocol = study()
    folder = RunFolder.create(tmp_path / "run", protocol)
    summary = finish(folder, done(protocol, told_data(protocol, {"a": COUNTS, "b": COUNTS})))
    assert folder.summary() == summary
    assert [clinic.images for clinic in summary.clinics] == [100, 100]
    assert load_tensors(folder.model)[1]["data"] == USED.model_dump(mode="json")
    assert {event["clinic"] for event in folder.events() if event["event"] == "test"} == {"a", "b"}


def test_a_deployed_run_writes_no_score_of_an_image(tmp_path):
    protocol = study()
    folder = RunFolder.create(tmp_path / "run", protocol)
    finish(folder, done(protocol, told_data(protocol, {"a": COUNTS, "b": COUNTS})))
    files = {"model.safetensors", "summary.json", "report.html", "clinic_rounds.csv", "SHA256SUMS", "metrics.jsonl"}
    files |= {"model-card.json", "model-card.md"}
    assert {path.name for path in folder.path.iterdir()} == files | {"study.yaml", "run-id", "checkpoints"}
    # What writes them is of the simulations, which no package of a deployment can import.
    for package in ("server", "client", "common"):
        for path in (Path(__file__).resolve().parents[3] / package).rglob("*.py"):
            assert "predictions.parquet" not in path.read_text(encoding="utf-8"), path


def test_what_was_changed_after_the_end_is_found(tmp_path):
    protocol = study()
    folder = RunFolder.create(tmp_path / "run", protocol)
    finish(folder, done(protocol, told_data(protocol, {"a": COUNTS, "b": COUNTS})))
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=folder.path, check=False).returncode == 0
    path = folder.path / "summary.json"
    path.write_text(path.read_text().replace('"patients": 50', '"patients": 51'))
    with pytest.raises(RunError, match=r"summary\.json: not what the run wrote \(see SHA256SUMS\)"):
        folder.summary()
    assert subprocess.run(check, cwd=folder.path, check=False, capture_output=True).returncode == 1


def test_a_run_that_is_finished_anew_has_the_new_sums(tmp_path):
    protocol = study()
    folder = RunFolder.create(tmp_path / "run", protocol)
    finish(folder, done(protocol, told_data(protocol, {"a": COUNTS, "b": COUNTS})))
    finish(folder, done(protocol, told_data(protocol, {"a": COUNTS})))
    assert folder.summary().data.folder == "1 clinic"
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=folder.path, check=False).returncode == 0


def test_the_summary_has_all_keys_of_the_study_and_no_path(tmp_path):
    protocol = study(seed=5)
    folder = RunFolder.create(tmp_path / "run", protocol)
    summary = finish(folder, done(protocol, told_data(protocol, {"a": COUNTS, "b": COUNTS})))
    assert summary.study.keys["seed"] == 5
    assert summary.study.keys["federation"]["rounds"] == 1
    assert "weights" not in summary.study.keys["model"]
    assert StudyProtocol.model_validate_json(json.dumps(summary.study.keys)).digest == protocol.digest


def test_the_report_of_a_deployed_run_names_no_folder(tmp_path):
    protocol = study()
    folder = RunFolder.create(tmp_path / "run", protocol)
    finish(folder, done(protocol, told_data(protocol, {"a": COUNTS, "b": COUNTS})))
    page = folder.report.read_text()
    assert "2 clinics: images stayed where they are" in page
    assert "what a clinic could not use is in its own log" in page
    assert "Layout" not in page
    assert "no image</" not in page


def test_the_report_of_a_folder_is_as_before(tmp_path):
    protocol = study()
    folder = RunFolder.create(tmp_path / "run", protocol)
    left_out = (LeftOutImage(image="a.jpg", reason="truncated"),)
    data = told_data(protocol, {"a": COUNTS}).model_copy(
        update={"folder": "ham", "layout": "HAM10000", "left_out": left_out}
    )
    finish(folder, done(protocol, data))
    page = folder.report.read_text()
    assert "HAM10000" in page
    assert "1 image" in page
    assert "stayed where they are" not in page


@pytest.mark.parametrize("name", ["north", "a/b"])
def test_a_model_a_clinic_has_its_name(tmp_path, name):
    protocol = study()
    folder = RunFolder.create(tmp_path / "run", protocol)
    finish(folder, done(protocol, told_data(protocol, {"a": COUNTS}), (name,)))
    assert len(list(folder.path.glob("model-*.safetensors"))) == 1
    assert not folder.model.exists()
