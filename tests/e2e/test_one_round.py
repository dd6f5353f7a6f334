"""A deployed study of one round, in real processes: two clinics release, a third joins later, one is taken out."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from melfed.common.data.records import read_table
from melfed.common.errors import RunError
from melfed.common.study.file import recorded_study
from melfed.server.results.solved import read_solution, solve_run
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.releases import Releases
from tests.common.runs import finished_run, public_model
from tests.e2e.federation import Federation, needs_nginx, until
from tests.e2e.place import SERVER

pytestmark = [needs_nginx, pytest.mark.timeout(900)]

STUDY = """\
name: once
data: {image_size: 32}
partition: {validation: 0.2, test: 0.3}
model: {backbone: simple_cnn, neck: 5}
federation: {mode: one_round, deadline_seconds: 300}
privacy: {unit: patient, epsilon: 8, delta: 1.0e-5}
"""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, phantom: Path) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("once")
    weights = finished_run(folder / "public", public_model(neck=5)) / "model.safetensors"
    clinics = tuple(sorted({record.source for record in read_table(phantom).records}))
    place = Federation(folder, phantom, clinics, {"epsilon": 40}, weights=(weights,))
    try:
        place.start_all()
        yield place
    finally:
        place.close()


def test_a_study_of_one_round_from_approval_to_forgetting(federation: Federation) -> None:
    stated, sealed = federation.folder / "once.yaml", federation.folder / "sealed.yaml"
    stated.write_text(STUDY)
    federation.run(SERVER, "study", stated, "--set", f"model.weights={federation.weights[0]}", "--out", sealed)
    for clinic in federation.clinics:
        federation.clinic(clinic, "approve", sealed, "--runs", 3)
    first, second, late = federation.clinics
    federation.run(SERVER, "run", sealed, "--out", "once", "--clinics", f"{first},{second}")
    run = federation.server / "runs" / "once"
    assert charges(federation, first) == ["counts", "moments", "evaluation"]
    assert charges(federation, late) == []
    assert model_is_of(run, sealed) == [first, second]
    test = json.loads((run / "summary.json").read_text())["test"]
    assert test["images"] or test["patients"]

    federation.run(SERVER, "join", "once", late)
    until("the late clinic has joined", lambda: federation.state("once").get("status") == "completed", every=0.5)
    assert model_is_of(run, sealed) == [first, second, late]
    assert charges(federation, late) == ["counts", "moments"]
    assert charges(federation, first) == ["counts", "moments", "evaluation"], "nobody else was asked"
    assert "no clinic has evaluated it" in (run / "report.html").read_text()

    federation.run(SERVER, "run", "--resume", "once")
    assert charges(federation, first) == ["counts", "moments", "evaluation", "evaluation"]
    assert charges(federation, late) == ["counts", "moments", "evaluation"]
    assert "no clinic has evaluated it" not in (run / "report.html").read_text()

    federation.run(SERVER, "forget", "once", second)
    assert model_is_of(run, sealed) == [first, late]
    identity = (run / "run-id").read_text().strip()
    federation.clinic(second, "forget", identity)
    assert "no moments of a run" in federation.clinic(second, "forget", identity, code=RunError.exit_code)
    assert charges(federation, second) == ["counts", "moments", "evaluation", "evaluation"], "what was spent stays"
    assert [row["event"] for row in federation.audit("server")][-1] == "release-forgotten"
    assert "release-deleted" in [row["event"] for row in federation.audit(second)]


def charges(federation: Federation, clinic: str) -> list[str]:
    exported = federation.clinic(clinic, "ledger", "export").splitlines()
    return [json.loads(line)["purpose"] for line in exported]


def model_is_of(run: Path, sealed: Path) -> list[str]:
    """Return whose releases are kept, after a look that the model is the head of just these."""
    study = recorded_study(sealed)
    releases = Releases(run / "releases", study.digest).kept()
    model = safetensors.numpy.load_file(run / "model.safetensors")
    known = read_solution(RunFolder.open(run)).public
    for name, tensor in solve_run(study, releases, public=known).tensors().items():
        np.testing.assert_array_equal(model[name], tensor)
    return list(releases)
