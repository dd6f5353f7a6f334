"""A deployed federation as it should be: the same result as the simulation, and paid for at the clinics.

SqueezeNet from ImageNet weights on real lesions where they are at hand (`shared`), else from random ones on synthetic
lesions.
"""

import csv
import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from melfed.common.data.records import read_table
from melfed.common.model.classifier import build_trunk
from tests.e2e.federation import Federation, needs_nginx, until
from tests.e2e.place import SERVER

pytestmark = [needs_nginx, pytest.mark.timeout(900)]

SOURCES = 3
LESIONS_EACH = 40
COLUMNS = ("image", "target", "diagnosis", "patient_id", "lesion_id", "source")
STUDY = """\
name: deployed
data: {image_size: 64}
partition: {minimum_images: 4, validation: 0.2, test: 0.3}
model: {backbone: squeezenet1_1, pretrained: true}
training: {optimizer: sgd, learning_rate: 0.01, warmup_steps: 0, batch_size: 16}
federation: {rounds: 2, deadline_seconds: 300}
"""
PRIVATE = f"""\
{STUDY.replace("minimum_images: 4, ", "").replace(", batch_size: 16", "")}\
privacy: {{unit: lesion, epsilon: 8, delta: 1.0e-5, recipe: manual}}
"""


def real_lesions(data: Path, folder: Path) -> Path:
    """A few dozen lesions of the three largest sources with both classes, as one data folder.

    Lesions with images of two sources are left out: a simulation gives them to one clinic, two clinics cannot know.
    """
    records = read_table(data).records
    sources = defaultdict(set)
    for record in records:
        sources[record.lesion_id].add(record.source)
    by_source = defaultdict(list)
    for record in records:
        if len(sources[record.lesion_id]) == 1:
            by_source[record.source].append(record)
    (folder / "images").mkdir(parents=True)
    rows = []
    for source in sorted(by_source, key=lambda name: (-len(by_source[name]), name))[:SOURCES]:
        own = sorted(by_source[source], key=lambda record: record.image)
        chosen = [r for r in own if r.target][: LESIONS_EACH // 2]
        chosen += [r for r in own if not r.target][: LESIONS_EACH - len(chosen)]
        for record in chosen:
            name = f"images/{Path(record.image).name}"
            shutil.copy(data / record.image, folder / name)
            row = (name, record.target, record.diagnosis, record.patient_id, record.lesion_id, record.source)
            rows.append(["" if value is None else value for value in row])
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return folder


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("deployed")
    weights = folder / "weights" / "squeezenet1_1.pth"
    weights.parent.mkdir()
    try:
        shared: Path = request.getfixturevalue("shared")
    except pytest.skip.Exception:
        torch.manual_seed(0)
        torch.save(build_trunk("squeezenet1_1", pretrained=False).state_dict(), weights)
        lesions = request.getfixturevalue("phantom")
    else:
        shutil.copy(shared / "weights" / "squeezenet1_1-caffe_fp16.pth", weights)
        lesions = real_lesions(shared / "data" / "ham10000", folder / "lesions")
    clinics = tuple(sorted({record.source for record in read_table(lesions).records}))
    policy = {"non_private": True, "unit": "lesion"}
    place = Federation(folder, lesions, clinics, policy, weights=(weights,))
    try:
        place.start_all()
        yield place
    finally:
        place.close()


def trained(federation: Federation, study: str, name: str) -> tuple[Path, Path]:
    """Seal, approve and run a study; return its sealed file and its run folder."""
    open_study, sealed = federation.folder / f"{name}.yaml", federation.folder / f"{name}-sealed.yaml"
    open_study.write_text(study)
    federation.run(SERVER, "study", open_study, "--set", f"model.weights={federation.weights[0]}", "--out", sealed)
    for clinic in federation.clinics:
        federation.clinic(clinic, "approve", sealed)
    federation.run(SERVER, "run", sealed, "--out", name)
    return sealed, federation.server / "runs" / name


def test_without_noise_the_model_is_that_of_the_simulation_bit_for_bit(federation: Federation) -> None:
    sealed, run = trained(federation, STUDY, "public")
    simulated = federation.simulate(sealed, "simulated")
    ours, theirs = (safetensors.numpy.load_file(path / "model.safetensors") for path in (run, simulated))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)
    summaries = [json.loads((path / "summary.json").read_text()) for path in (run, simulated)]
    assert summaries[0]["test"] == summaries[1]["test"]
    assert [row["validation"] for row in summaries[0]["rounds"]] == [
        row["validation"] for row in summaries[1]["rounds"]
    ]
    assert [clinic["test"] for clinic in summaries[0]["clinics"]] == [
        clinic["test"] for clinic in summaries[1]["clinics"]
    ]
    assert (run / "report.html").stat().st_size > 10_000
    the_model_is_at_the_clinics(federation, run, summaries[0]["clinics"])


def the_model_is_at_the_clinics(federation: Federation, run: Path, clinics: list[dict[str, Any]]) -> None:
    """Each clinic has the model since the run's end, and one that has removed it gets it again on request."""
    image = federation.lesions / read_table(federation.lesions).records[0].image
    (expected,) = json.loads(federation.run(SERVER, "predict", run, image, "--json"))
    for clinic in federation.clinics:
        (model,) = json.loads(federation.clinic(clinic, "model", "list", "--json"))
        assert model["facts"]["run"] == (run / "run-id").read_text().strip()
    first = federation.clinics[0]
    (found,) = json.loads(federation.clinic(first, "model", "predict", "deployed", image, "--json"))
    assert found["logit"] == pytest.approx(expected["logit"], abs=1e-5)
    own = json.loads(federation.clinic(first, "model", "evaluate", "deployed", "--json"))
    (told,) = (clinic["test"] for clinic in clinics if clinic["name"] == first)
    assert (own["images"], own["melanomas"]) == (told["images"], told["melanomas"])
    assert own["auroc"]["value"] == pytest.approx(told["auroc"]["value"], abs=1e-6)
    federation.clinic(first, "model", "remove", "deployed")
    federation.run(SERVER, "deliver", run.name, "--clinics", first)
    until("the model is back", lambda: json.loads(federation.clinic(first, "model", "list", "--json")), every=1)
    until("the run is complete again", lambda: federation.state(run.name)["status"] == "completed")
    events = [row["event"] for row in federation.audit(first) if row["event"].startswith("model-")]
    assert events == ["model-taken", "model-removed", "model-taken"]
    assert [row["event"] for row in federation.audit("server")].count("model-delivered") == len(federation.clinics) + 1


def test_a_private_study_is_paid_for_at_the_clinics_as_in_the_simulation(federation: Federation) -> None:
    sealed, run = trained(federation, PRIVATE, "private")
    simulated = federation.simulate(sealed, "private-simulated")
    ours, theirs = (json.loads((path / "summary.json").read_text())["privacy"] for path in (run, simulated))
    assert 0 < ours["epsilon_spent"] <= 8
    for key in ("epsilon_spent", "delta", "noise_multiplier", "steps", "sampling_rate", "unit", "released"):
        assert ours[key] == theirs[key], key
    for clinic in federation.clinics:
        ledger = federation.clinic(clinic, "ledger", "export").splitlines()
        charges = [(row["purpose"], row["round"]) for row in map(json.loads, ledger)]
        assert sorted(charges) == [
            ("counts", 0),
            ("evaluation", 1),
            ("evaluation", 2),
            ("training", 1),
            ("training", 2),
        ]
        assert "chain whole" in federation.clinic(clinic, "ledger", "verify")
        federation.clinic(clinic, "log", "verify")
    noise = [safetensors.numpy.load_file(path / "model.safetensors") for path in (run, simulated)]
    assert any((noise[0][name] != noise[1][name]).any() for name in noise[0]), "two draws of noise are the same"


def test_a_rehearsal_asks_the_clinics_for_a_rounds_time_and_proposes(federation: Federation) -> None:
    """Of the study that the test before had approved; each clinic has timed a step of it then."""
    sealed = federation.folder / "private-sealed.yaml"
    said = federation.run(SERVER, "study", sealed, "--rehearse")
    for clinic in federation.clinics:
        assert f"clinic {clinic}: a round takes 1 min at most" in said
    assert "proposed: federation.quorum 0.66" in said
    assert "proposed: federation.deadline_seconds 600" in said
    assert "2 rounds take 2 min at most" in said
    assert "--set federation.quorum=0.66 --set federation.deadline_seconds=600" in said


def test_an_unapproved_study_trains_nowhere(federation: Federation) -> None:
    study = federation.folder / "unapproved.yaml"
    study.write_text(STUDY.replace("deployed", "unapproved").replace("rounds: 2", "rounds: 1"))
    options = ("--set", f"model.weights={federation.weights[0]}", "--out", "unapproved")
    said = federation.run(SERVER, "run", study, *options, code=7)
    assert "quorum" in said
    assert said.count("is not approved here") >= len(federation.clinics)
    assert not federation.events("unapproved")


def test_status_tells_of_clinics_and_runs(federation: Federation) -> None:
    status = federation.status()
    assert {clinic["name"]: clinic["online"] for clinic in status["clinics"]} == dict.fromkeys(federation.clinics, True)
    assert "deployed" in federation.run(SERVER, "status")
    for clinic in federation.clinics:
        found = json.loads(federation.clinic(clinic, "status", "--json"))
        assert (found["ready"], {check["status"] for check in found["checks"]}) == (True, {"ok"})
