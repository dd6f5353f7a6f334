"""Private studies over virtual clinics in this process: what is charged, what leaves, what a kill costs."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from flwr.app import Message

from melfed.client.config.policy import ClinicPolicy
from melfed.client.data.clinic_data import PARTS, ClinicData
from melfed.client.ledger.ledger import verify
from melfed.client.ledger.rows import charges
from melfed.client.privacy.plan import plan_of
from melfed.client.training import private as private_training
from melfed.client.training.private import PrivateTrainer
from melfed.client.worker.guard import Guard, Protection, Request
from melfed.client.worker.worker import shared_classifier
from melfed.common.data.records import LesionRecord
from melfed.common.errors import DataError, QuorumError, StudyError
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy_histogram import NoisyHistogram
from melfed.common.model import inference
from melfed.common.model.classifier import trainable_tensors
from melfed.common.model.inference import pick_device
from melfed.common.study.build import build_study_classifier
from melfed.common.study.protocol import StudyProtocol
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.server.runs.summary import Counted
from melfed.simulations import run as run_module
from melfed.simulations.engine.partition_worker import Simulation
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from melfed.simulations.run import privacy_warnings, simulate
from tests.client.small import without_dropout
from tests.in_process import InProcessGrid, SilentObserver, conduct, federate

Line = dict[str, Any]


def private_study(federation: Mapping[str, object] | None = None, **privacy: object) -> StudyProtocol:
    """A study of three rounds of two steps, in which each patient takes part with probability 1/2."""
    strength = {} if {"epsilon", "noise_multiplier"} & privacy.keys() else {"epsilon": 6.0}
    stated = {"unit": "patient", "recipe": "manual", "sampling_rate": 0.5, "steps": 2, **strength, **privacy}
    content = {
        "name": "private",
        "data": {"image_size": 32},
        "partition": {"minimum_images": 4},
        "model": {"backbone": "simple_cnn", "pretrained": False},
        "training": {"optimizer": "sgd", "learning_rate": 0.1, "warmup_steps": 0, "augment": False},
        "federation": {"rounds": 3, **(federation or {})},
        "privacy": stated,
    }
    return StudyProtocol.model_validate_json(json.dumps(content))


@pytest.fixture(scope="module", autouse=True)
def _small_batches() -> Iterator[None]:
    """An evaluation computes a whole batch, whatever images there are: 16 images here, where 256 suit a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "CPU_MICRO_BATCH_PIXELS", 16 * 32**2)
        yield


@pytest.fixture(scope="module")
def clinics(phantom_clinics: VirtualClinics) -> tuple[ClinicData, ...]:
    return phantom_clinics.clinics


class PowerCutError(Exception):
    """Ends a run without a chance to tidy up."""


class Grid(InProcessGrid):
    """Cuts the power before or after a clinic has answered a message."""

    cut: tuple[str, int, int, str] = ("", 0, 0, "")

    def push_messages(self, messages: Any) -> list[str]:
        (message,) = messages
        kind, number, node, when = self.cut
        here = self.is_at(message, kind, number, node)
        if here and when == "before":
            raise PowerCutError
        pushed = super().push_messages([message])
        if here:
            raise PowerCutError
        return pushed

    @staticmethod
    def is_at(message: Message, kind: str, number: int, node: int) -> bool:
        about = message.metadata
        return (about.message_type, about.group_id, about.dst_node_id) == (kind, str(number), node)


def grid_of(
    study: StudyProtocol,
    clinics: tuple[ClinicData, ...],
    folder: RunFolder,
    policies: Mapping[str, ClinicPolicy] | None = None,
) -> Grid:
    return Grid(Simulation(study, clinics, folder.ledgers, policies or {}))


def run(grid: Grid, study: StudyProtocol, folder: RunFolder) -> Outcome:
    return conduct(grid, study, folder, trainable_tensors(build_study_classifier(study)))


def lines_of(folder: RunFolder) -> dict[str, list[Line]]:
    """The charges of every ledger, after it was verified."""
    return {path.stem: charges(verify(path).rows) for path in sorted(folder.ledgers.glob("*.jsonl"))}


def composed(lines: list[Line], delta: float) -> float:
    """ε of ledger lines, by dp-accounting alone."""
    assert {line["delta"] for line in lines} == {delta}
    steps: Counter[tuple[float, float]] = Counter()
    for line in lines:
        steps[line["sampling_rate"], line["noise_multiplier"]] += line["steps"]
    return _composed(tuple(sorted(steps.items())), delta)


@lru_cache
def _composed(steps: tuple[tuple[tuple[float, float], int], ...], delta: float) -> float:
    losses = [
        from_gaussian_mechanism(sigma, sampling_prob=rate, value_discretization_interval=1e-3).self_compose(count)
        for (rate, sigma), count in steps
    ]
    return float(reduce(lambda one, other: one.compose(other), losses).get_epsilon_for_delta(delta))


@pytest.fixture(scope="module")
def finished(clinics: tuple[ClinicData, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Outcome]:
    study = private_study()
    folder = RunFolder.create(tmp_path_factory.mktemp("private") / "run", study)
    return folder, run(grid_of(study, clinics, folder), study, folder)


def test_every_round_and_every_histogram_is_charged_and_released(finished: tuple[RunFolder, Outcome]) -> None:
    folder, _ = finished
    ledgers, plan = lines_of(folder), plan_of(private_study())
    assert list(ledgers) == ["phantom_east", "phantom_north", "phantom_south"]
    assert plan.evaluation is not None
    for lines in ledgers.values():
        about = [(line["purpose"], line["round"], line["status"]) for line in lines]
        # The validation of a round is asked for with the next round's training, and that of the last with the test.
        assert about == [
            ("counts", 0, "released"),
            ("training", 1, "released"),
            ("evaluation", 1, "released"),
            ("training", 2, "released"),
            ("evaluation", 2, "released"),
            ("training", 3, "released"),
            ("evaluation", 3, "released"),
        ]
        for line in lines:
            assert (line["run"], line["study"]) == (folder.identity, private_study().digest)
            assert (line["unit"], line["delta"]) == ("patient", 1e-5)
            mechanism = {"counts": plan.counts, "training": plan.training}.get(line["purpose"], plan.evaluation)
            stated = (line["sampling_rate"], line["noise_multiplier"], line["steps"])
            assert stated == (mechanism.sampling_rate, mechanism.noise_multiplier, mechanism.steps)
    assert len({lines[0]["data"] for lines in ledgers.values()}) == 3, "each is the ledger of its own data"


def test_epsilon_of_the_ledger_is_that_of_its_lines_and_within_the_study(finished: tuple[RunFolder, Outcome]) -> None:
    folder, outcome = finished
    for name, lines in lines_of(folder).items():
        totals = [composed(lines[:count], 1e-5) for count in (1, 3, len(lines))]
        assert [lines[0]["epsilon"], lines[2]["epsilon"], lines[-1]["epsilon"]] == pytest.approx(totals, rel=5e-3)
        assert 0.98 * 6.0 < totals[-1] <= 6.0
        assert lines[-1]["epsilon"] <= 6.0
        account = outcome.accounts[name]
        assert account.epsilon == lines[-1]["epsilon"]
        assert account.head == verify(folder.ledgers / f"{name}.jsonl").head


def test_nothing_leaves_but_noised_histograms_and_noised_counts(
    finished: tuple[RunFolder, Outcome], clinics: tuple[ClinicData, ...]
) -> None:
    folder, outcome = finished
    sigma = plan_of(folder.study()).counts.noise_multiplier
    assert sigma > 1
    for clinic in clinics:
        counts = outcome.clinics[clinic.name]
        assert counts.noise == sigma
        assert set(counts.numbers) == {f"{part}_{what}" for part in PARTS for what in ("units", "positive_units")}
        for part in PARTS:
            assert abs(counts.of(part, "units") - len({r.patient_id for r in getattr(clinic, part)})) < 10 * sigma
    assert all(isinstance(histogram, NoisyHistogram) for histogram in outcome.test.values())
    rounds = [event for event in folder.events() if event["event"] == "round"]
    assert [event["train_loss"] for event in rounds] == [None] * 3
    validations = [event["histogram"] for event in folder.events() if event["event"] == "validation"]
    assert len(validations) == 3
    assert all(set(histogram) == {"edges", "positives", "negatives", "noise_variance"} for histogram in validations)


def test_ledgers_keys_and_kept_replies_are_for_their_owner_alone(finished: tuple[RunFolder, Outcome]) -> None:
    folder, _ = finished
    assert folder.ledgers.stat().st_mode & 0o777 == 0o700
    files = [path for path in folder.ledgers.iterdir() if not path.name.endswith(".lock")]
    assert len(files) >= 3 * 4
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_only_noise_makes_a_run_differ_from_its_repetition(
    clinics: tuple[ClinicData, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At σ = 0 and q = 1 nothing is random but what the study's seed decides, and the order of the patients."""
    monkeypatch.setattr(private_training, "secure_generator", lambda: np.random.default_rng(0))

    def models(sigma: float) -> list[np.ndarray]:
        study = private_study({"rounds": 1}, noise_multiplier=sigma, sampling_rate=1.0, evaluation="public")
        without_dropout(shared_classifier(study, None, pick_device()))
        found = []
        for name in ("one", "two"):
            folder = RunFolder.create(tmp_path / f"{name}-{sigma}", study)
            tensors = run(grid_of(study, clinics, folder), study, folder).models[""]
            found.append(np.concatenate([tensor.ravel() for _, tensor in sorted(tensors.items())]))
        return found

    one, two = models(0.0)
    np.testing.assert_array_equal(one, two)
    one, two = models(1.0)
    assert np.abs(one - two).max() > 1e-3


def test_a_run_without_noise_has_no_bound(clinics: tuple[ClinicData, ...], tmp_path: Path) -> None:
    study = private_study({"rounds": 1}, noise_multiplier=0.0)
    folder = RunFolder.create(tmp_path / "run", study)
    outcome = run(grid_of(study, clinics, folder), study, folder)
    for account in outcome.accounts.values():
        assert (account.epsilon, account.noise_multiplier, account.evaluation_noise_multiplier) == (None, 0.0, 0.0)
    assert all(line["epsilon"] is None for lines in lines_of(folder).values() for line in lines)


def test_a_public_evaluation_is_exact_and_costs_nothing(clinics: tuple[ClinicData, ...], tmp_path: Path) -> None:
    study = private_study(evaluation="public")
    folder = RunFolder.create(tmp_path / "run", study)
    outcome = run(grid_of(study, clinics, folder), study, folder)
    assert all(isinstance(histogram, ScoreHistogram) for histogram in outcome.test.values())
    for clinic in clinics:
        counts = outcome.clinics[clinic.name]
        assert counts.of("test", "images") == len(clinic.test) == outcome.test[clinic.name].images
        assert counts.of("validation", "images") == len(clinic.validation)
        assert counts.noise > 0
        assert "train_images" not in counts.numbers, "the training images are not public"
    for lines in lines_of(folder).values():
        assert [(line["purpose"], line["round"]) for line in lines] == [
            ("counts", 0),
            *(("training", n) for n in (1, 2, 3)),
        ]
        assert composed(lines, 1e-5) <= 6.0


# Interrupted runs.


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The round of every time that a clinic has trained."""
    rounds: list[int] = []
    train = PrivateTrainer.train

    def counted(self: PrivateTrainer, *arguments: Any, **options: Any) -> Any:
        rounds.append(options["round_number"])
        return train(self, *arguments, **options)

    monkeypatch.setattr(PrivateTrainer, "train", counted)
    return rounds


@pytest.mark.parametrize(
    ("cut", "again"),
    [
        # Nodes 102, 100, 101 are asked in turn. What a clinic has paid for, it gives again: no second training.
        (("train", 1, 100, "before"), [1, 1, 2, 2, 2, 3, 3, 3]),
        (("train", 2, 100, "after"), [2, 3, 3, 3]),
        (("train", 3, 101, "after"), []),
        (("evaluate", 3, 100, "after"), []),
    ],
)
def test_a_killed_run_goes_on_within_the_same_epsilon(
    clinics: tuple[ClinicData, ...],
    tmp_path: Path,
    cut: tuple[str, int, int, str],
    again: list[int],
    trained: list[int],
) -> None:
    study = private_study({"tail_average": 0.6})
    folder = RunFolder.create(tmp_path / "run", study)
    grid = grid_of(study, clinics, folder)
    grid.cut = cut
    with pytest.raises(PowerCutError):
        run(grid, study, folder)
    kept = {path.name: path.read_bytes() for path in folder.ledgers.glob("*.safetensors")}
    trained.clear()
    resumed = grid_of(study, clinics, RunFolder.open(folder.path))
    outcome = run(resumed, study, folder)
    assert trained == again
    for name, lines in lines_of(folder).items():
        assert len(lines) == 7, "no charge twice"
        assert {line["status"] for line in lines} == {"released"}
        assert composed(lines, 1e-5) <= 6.0
        assert outcome.accounts[name].epsilon == lines[-1]["epsilon"] <= 6.0
    if not again:
        assert {n: (folder.ledgers / n).read_bytes() for n in kept if ".training-" in n} == {
            n: content for n, content in kept.items() if ".training-" in n
        }


def test_training_all_over_again_costs_anew(clinics: tuple[ClinicData, ...], tmp_path: Path) -> None:
    """Only the last reply is kept: whoever has lost the checkpoints asks new questions, and each has its price."""
    study = private_study({"rounds": 2}, noise_multiplier=2.0)
    folder = RunFolder.create(tmp_path / "run", study)
    grid = grid_of(study, clinics, folder)
    grid.cut = ("evaluate", 2, 102, "before")
    with pytest.raises(PowerCutError):
        run(grid, study, folder)
    before = {name: lines[-1]["epsilon"] for name, lines in lines_of(folder).items()}
    for path in (*folder.checkpoints.iterdir(), folder.path / "metrics.jsonl"):
        path.unlink()
    run(grid_of(study, clinics, folder), study, folder)
    for name, lines in lines_of(folder).items():
        assert [line["round"] for line in lines if line["purpose"] == "training"] == [1, 2, 1, 2]
        assert lines[-1]["epsilon"] > before[name]
        assert lines[-1]["epsilon"] == pytest.approx(composed(lines, 1e-5), rel=5e-3)


# Clinics that decline, or cannot take part.


def test_a_clinic_whose_policy_forbids_the_study_declines_and_the_others_go_on(
    clinics: tuple[ClinicData, ...], tmp_path: Path
) -> None:
    study = private_study({"quorum": 0.5})
    folder = RunFolder.create(tmp_path / "run", study)
    policies = {"phantom_north": ClinicPolicy(epsilon=2.0, studies="any")}
    outcome = run(grid_of(study, clinics, folder, policies), study, folder)
    assert list(outcome.test) == ["phantom_east", "phantom_south"]
    assert list(lines_of(folder)) == ["phantom_east", "phantom_south"], "nothing was charged to the other"
    for event in folder.events():
        if event["event"] == "round":
            ((_, reason),) = event["declined"].items()
            assert reason == "study private is declined: it asks for ε 6, more than this clinic allows for its data"
            assert event["failed"] == {}


def test_a_clinic_that_cannot_end_the_run_declines_before_the_first_round_and_is_charged_nothing(
    clinics: tuple[ClinicData, ...], tmp_path: Path
) -> None:
    study = private_study({"quorum": 0.5}, noise_multiplier=2.0, evaluation="public")
    limit = 0.9 * plan_of(study).epsilon
    policy = ClinicPolicy(epsilon=limit, studies="any", public_evaluation=True)
    folder = RunFolder.create(tmp_path / "run", study)
    outcome = run(grid_of(study, clinics, folder, {"phantom_south": policy}), study, folder)
    events = [event for event in folder.events() if event["event"] == "round"]
    assert [list(event["declined"]) for event in events] == [["phantom_south"]] * 3
    reason = events[0]["declined"]["phantom_south"]
    assert reason == "too little is left of these patients' ε for all that a run of this study still asks"
    assert {name: len(lines) for name, lines in lines_of(folder).items()} == {"phantom_east": 4, "phantom_north": 4}
    assert "phantom_south" not in outcome.accounts


def test_a_run_that_the_quorum_cannot_end_ends_before_anybody_spends(
    clinics: tuple[ClinicData, ...], tmp_path: Path
) -> None:
    """Two clinics have all of it, the third ε 0.295 of the 0.6 that a run costs."""
    study = private_study({"quorum": 1.0}, epsilon=0.6)
    folder = RunFolder.create(tmp_path / "run", study)
    grid = grid_of(study, clinics, folder, {"phantom_south": ClinicPolicy(epsilon=0.6, studies="any", runs=9)})
    earlier, south = private_study(epsilon=0.45), next(clinic for clinic in clinics if clinic.name == "phantom_south")
    protection = Protection(folder.ledgers / "phantom_south.jsonl", ClinicPolicy(epsilon=0.6, studies="any"))
    guard = Guard(earlier, protection, south)
    for number in (1, 2):
        guard.pay("training", Request("earlier", number, {}), dict)
    left = guard.left()
    assert left is not None
    assert 0.2 < left < 0.4
    before = lines_of(folder)
    with pytest.raises(QuorumError) as caught:
        run(grid, study, folder)
    assert str(caught.value) == (
        "2 of 3 clinics answered, 3 are needed: phantom_south declined: too little is left of these patients' ε for "
        "all that a run of this study still asks"
    )
    assert lines_of(folder) == before, "nobody was charged"
    assert not [event for event in folder.events() if event["event"] == "round"]


def test_too_few_clinics_say_why_each_declines(clinics: tuple[ClinicData, ...], tmp_path: Path) -> None:
    study = private_study({"quorum": 0.5})
    folder = RunFolder.create(tmp_path / "run", study)
    policies = {"*": ClinicPolicy(epsilon=2.0), "phantom_east": ClinicPolicy(epsilon=8.0, studies="any")}
    with pytest.raises(QuorumError) as caught:
        run(grid_of(study, clinics, folder, policies), study, folder)
    assert str(caught.value).startswith(
        "1 of 3 clinics answered, 2 are needed: phantom_north, phantom_south declined: study private is "
    )
    assert f"it is not approved here (digest {study.digest})" in str(caught.value)


def test_a_ledger_that_was_tampered_with_stops_its_clinic(clinics: tuple[ClinicData, ...], tmp_path: Path) -> None:
    study = private_study()
    folder = RunFolder.create(tmp_path / "run", study)
    grid = grid_of(study, clinics, folder)
    grid.cut = ("train", 2, 100, "after")
    with pytest.raises(PowerCutError):
        run(grid, study, folder)
    path = folder.ledgers / f"{clinics[0].name}.jsonl"
    path.write_text(path.read_text().replace('"steps":2', '"steps":1', 1))
    with pytest.raises(QuorumError, match=r"2 of 3 clinics answered, 3 are needed: phantom_north: .*it was changed"):
        run(grid_of(study, clinics, folder), study, folder)


# Whole runs, with this process in place of Flower's engine.


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "federate", federate)


@pytest.mark.usefixtures("here")
def test_the_summary_of_a_private_run(phantom_clinics: VirtualClinics, tmp_path: Path) -> None:
    study = private_study(delta=0.07)
    summary = simulate(study, phantom_clinics, tmp_path / "run", SilentObserver())
    folder, plan = RunFolder.open(tmp_path / "run"), plan_of(study)
    privacy = summary.privacy
    assert privacy is not None
    assert folder.summary() == summary
    assert plan.evaluation is not None
    stated = (privacy.unit, privacy.epsilon, privacy.delta, privacy.sampling_rate, privacy.steps, privacy.clipping_norm)
    assert stated == ("patient", 6.0, 0.07, 0.5, 6, 1.0)
    assert privacy.noise_multiplier == plan.training.noise_multiplier
    assert privacy.evaluation_noise_multiplier == plan.evaluation.noise_multiplier
    ledgers = lines_of(folder)
    assert [(c.name, c.epsilon) for c in privacy.clinics] == [(n, rows[-1]["epsilon"]) for n, rows in ledgers.items()]
    for clinic in privacy.clinics:
        # The head in the report is one that `melfed-client ledger verify --head` accepts.
        assert verify(folder.ledgers / f"{clinic.name}.jsonl", clinic.ledger_head).head == clinic.ledger_head
    assert privacy.epsilon_spent == max(lines[-1]["epsilon"] for lines in ledgers.values()) <= 6.0
    assert [row.train_loss for row in summary.rounds] == [None] * 3
    patients = {clinic.name: len({record.patient_id for record in clinic.train}) for clinic in phantom_clinics.clinics}
    assert patients["phantom_north"] > 1 / 0.07 > max(patients["phantom_south"], patients["phantom_east"])
    (warning,) = privacy.warnings
    assert warning.startswith("phantom_north: delta 0.07 is not below 1/N")
    assert f"N = {patients['phantom_north']} units" in warning
    assert "ε = 6" in folder.report.read_text()
    assert summary.public is None
    # The user has the folder, and the clinics' table shows what a coordinator would see.
    assert summary.data.counted == Counted()
    assert summary.data.images == sum(len(getattr(c, part)) for c in phantom_clinics.clinics for part in PARTS)
    assert privacy.count_noise_multiplier == plan.counts.noise_multiplier
    for row in summary.clinics:
        assert (row.images, row.counted.how, row.counted.parts) == (None, "noised", "all")
        assert row.counted.melanomas_noise == pytest.approx(3**0.5 * plan.counts.noise_multiplier)


@pytest.mark.usefixtures("here")
def test_the_recipe_is_resolved_and_told(phantom_clinics: VirtualClinics, tmp_path: Path) -> None:
    content = json.loads(private_study().model_dump_json(exclude_unset=True))
    content["privacy"] = {"unit": "patient", "epsilon": 6.0, "steps": 1, "patients": 20_000_000 // 2}
    content["federation"] = {"rounds": 2}
    study = StudyProtocol.model_validate_json(json.dumps(content))
    summary = simulate(study, phantom_clinics, tmp_path / "run", SilentObserver())
    assert summary.privacy is not None
    chosen = {choice.key: choice.value for choice in summary.privacy.recipe}
    assert "federation.algorithm" in chosen
    assert not {"federation.rounds", "privacy.steps", "training.learning_rate"} & chosen.keys(), "stated by the study"
    written = RunFolder.open(tmp_path / "run").study()
    assert written.privacy is not None
    assert written.privacy.recipe == "manual"
    assert written.federation.algorithm == chosen["federation.algorithm"]
    assert summary.study.digest == written.digest


def without_patients(clinic: ClinicData, part: str) -> ClinicData:
    records: tuple[LesionRecord, ...] = tuple(replace(r, patient_id=None) for r in getattr(clinic, part))
    return replace(clinic, **{part: records})


def test_images_without_patients_are_told_before_anything_is_made(
    phantom_clinics: VirtualClinics, tmp_path: Path
) -> None:
    """Of the parts that are not trained on, whoever divides the folder has said so before."""
    clinics = (without_patients(phantom_clinics.clinics[0], "train"), *phantom_clinics.clinics[1:])
    virtual = replace(phantom_clinics, clinics=clinics)
    lacking = len(clinics[0].train)
    with pytest.raises(DataError, match=f"{lacking} of {lacking} images have no patient id, but the study protects"):
        simulate(private_study(), virtual, tmp_path / "run", SilentObserver())
    assert not (tmp_path / "run").exists()


def test_an_epsilon_that_no_noise_reaches_is_told_before_anything_is_made(
    phantom_clinics: VirtualClinics, tmp_path: Path
) -> None:
    study = private_study({"rounds": 100}, epsilon=1e-6, delta=1e-12)
    with pytest.raises(StudyError, match="allow a larger epsilon"):
        simulate(study, phantom_clinics, tmp_path / "run", SilentObserver())
    assert not (tmp_path / "run").exists()


def test_a_study_without_privacy_has_no_ledgers_and_no_warnings(
    clinics: tuple[ClinicData, ...], phantom_clinics: VirtualClinics, tmp_path: Path
) -> None:
    study = private_study({"rounds": 1})
    plain = StudyProtocol.model_validate_json(json.dumps({**json.loads(study.model_dump_json()), "privacy": None}))
    folder = RunFolder.create(tmp_path / "run", plain)
    outcome = run(grid_of(plain, clinics, folder), plain, folder)
    assert outcome.accounts == {}
    assert lines_of(folder) == {}
    assert privacy_warnings(plain, phantom_clinics) == ()
    assert math.isfinite(next(event for event in folder.events())["train_loss"])


def test_stopping_between_clinics_leaves_the_others_unasked(clinics: tuple[ClinicData, ...], tmp_path: Path) -> None:
    """Nothing is reserved for a clinic before its own turn."""
    study = private_study()
    folder = RunFolder.create(tmp_path / "run", study)
    grid = grid_of(study, clinics, folder)
    grid.cut = ("train", 1, 100, "before")
    with pytest.raises(PowerCutError):
        run(grid, study, folder)
    assert [len(lines) for lines in lines_of(folder).values()] == [2, 1, 1], "all have told their counts before"
