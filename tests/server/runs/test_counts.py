"""What clinics say of their data: who is believed, and that noise makes no honest clinic a liar."""

import math
from pathlib import Path

import numpy as np
import pytest
from flwr.app import MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noisy_evaluation import noised_histograms
from melfed.client.privacy.plan import plan_of
from melfed.client.worker.unit_counts import UnitCounts, declared, noised
from melfed.common import messages
from melfed.common.data.records import LesionRecord
from melfed.common.errors import DataError
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy_histogram import Histogram, NoisyHistogram
from melfed.common.study.count_noise import largest_count_noise, unit_parts
from melfed.common.study.evaluation_noise import largest_multiplier
from melfed.common.study.protocol import PartitionSpec, StudyProtocol
from melfed.server.federation.members import Members, _Register
from melfed.server.federation.reply_checks import Intake
from melfed.server.flower import channel as exchange
from melfed.server.flower.channel import Reply
from melfed.server.runs.counts import PARTS, Counts
from tests.common.noisy import EDGES
from tests.server.fakes import (
    COUNT_NOISE,
    EVALUATION_NOISE,
    INITIAL,
    FakeClinic,
    Recorder,
    Run,
    arrays,
    changed,
    clinics_of,
    grid_of,
    metrics,
    study_of,
)

NOISED, PUBLIC = {"epsilon": 3.0}, {"epsilon": 3.0, "evaluation": "public"}
RUN = "0" * 16
TAIL = 6.0
"""Standard deviations beyond which a normal number lies once in 10^9 times."""


def introduced(study: StudyProtocol, **values: float) -> Counts:
    """What is believed of a clinic that says this of itself, and otherwise what a scripted one says."""
    content = FakeClinic("a", study).describe(RecordDict())
    told = MetricRecord({**content.metric_records["counts"], **values})
    return Intake(study, RUN).counts(Reply(1, RecordDict({"counts": told}), None, 0), "a")


def test_a_private_study_is_told_units_and_their_noise() -> None:
    counts = introduced(study_of(privacy=NOISED))
    assert set(counts.numbers) == {f"{part}_{what}" for part in PARTS for what in ("units", "positive_units")}
    assert counts.noise == COUNT_NOISE
    assert (counts.of("train", "units"), counts.of("train", "images")) == (30, 0)
    public = introduced(study_of(privacy=PUBLIC))
    assert {name for name in public.numbers if "unit" in name} == {"train_units", "train_positive_units"}
    assert public.of("test", "images") == 12
    assert introduced(study_of()).noise == 0


@pytest.mark.parametrize(
    ("privacy", "values", "reason"),
    [
        (None, {"noise": 1.0}, "counts with noise of 1; the study needs none above 0"),
        (NOISED, {"noise": 1e6}, "counts with noise of 1e\\+06; the study needs none above"),
        (NOISED, {"noise": -1.0}, "counts with noise of -1;"),
        (NOISED, {"noise": math.nan}, "counts with noise of nan;"),
        (NOISED, {"train_units": math.inf}, "counts inf train units"),
        (NOISED, {"train_units": -1}, "counts -1 train units"),
        (NOISED, {"test_positive_units": 0.5}, "counts 0.5 test positive units"),
        (NOISED, {"test_units": 2e6}, "counts 2e\\+06 test units"),
        (NOISED, {"test_positive_units": 13}, "counts 13 of 12 test units"),
        (PUBLIC, {"test_positives": 13}, "counts 13 of 12 test images"),
        (None, {"train_groups": 31}, "counts 31 of 30 train images"),
    ],
)
def test_counts_that_make_no_sense_are_refused(
    privacy: dict[str, object] | None, values: dict[str, float], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        introduced(study_of(privacy=privacy), **values)


@pytest.mark.parametrize("privacy", [NOISED, PUBLIC])
def test_a_clinic_may_have_nothing(tmp_path: Path, privacy: dict[str, object]) -> None:
    """No part of a private study has a number of patients that is too small, or a class that may not be absent."""
    study = study_of(2, rounds=2, privacy=privacy)

    def nobody(content: RecordDict) -> RecordDict:
        for name in ("counts", "metrics"):
            if name in content.metric_records:
                numbers = dict(content.metric_records[name])
                keep = {"noise", "weight"}
                content[name] = MetricRecord({key: value if key in keep else 0 for key, value in numbers.items()})
        if "metrics" in content.metric_records:
            content["metrics"] = MetricRecord({"weight": 1})
        for part in ("validation", "test"):
            if part in content.array_records:
                content[part] = arrays(_of_nothing(study).to_arrays())
        return content

    clinics = clinics_of(study, "ab")
    clinics[0].tamper = dict.fromkeys((messages.DESCRIBE, messages.TRAIN, messages.EVALUATE), nobody)
    run = Run(tmp_path / "run", study, grid_of(clinics))
    outcome = run.conduct()
    assert [event["answered"] for event in run.events("round")] == [["a", "b"]] * 2
    assert list(outcome.test) == ["a", "b"]


def _of_nothing(study: StudyProtocol) -> Histogram:
    if study.privacy is None or study.privacy.evaluation == "public":
        return ScoreHistogram.empty()
    return noised_histograms({"test": ([], [], [])}, EVALUATION_NOISE, NoiseSource(), EDGES)["test"]


def test_a_weight_is_at_most_what_the_clinic_told(tmp_path: Path) -> None:
    study = study_of(2, rounds=1, quorum=0.5, privacy=NOISED)
    clinics = clinics_of(study, "ab")
    clinics[0].tamper = {messages.TRAIN: metrics(weight=21)}
    run = Run(tmp_path / "run", study, grid_of(clinics))
    run.conduct()
    assert run.events("round")[0]["failed"] == {"a": "claims a weight of 21, said 20 training units before"}


def test_noise_makes_no_clinic_heavier_than_the_largest(tmp_path: Path) -> None:
    """An honest clinic that seems larger than the study lets it be is believed, and weighs as the largest."""
    study = study_of(2, rounds=1, privacy=NOISED, largest_clinic=40)
    clinics = clinics_of(study, "ab")
    clinics[0].images = 40 + int(TAIL * math.sqrt(2) * COUNT_NOISE)
    run = Run(tmp_path / "run", study, grid_of(clinics))
    model = run.conduct().models[""]
    assert run.events("round")[0]["answered"] == ["a", "b"]
    trained = [clinic.trained(INITIAL, 1) for clinic in clinics]
    for name in INITIAL:
        expected = (40 * trained[0][name].astype(float) + 30 * trained[1][name]) / 70
        np.testing.assert_allclose(model[name], expected, rtol=1e-6)


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.floats(0.01, 100.0),
    st.floats(-1.0, 1.0),
    st.floats(-TAIL, TAIL),
)
def test_an_honest_number_of_units_is_within_what_may_be(
    positive: int, others: int, noise: float, share: float, together: float
) -> None:
    """Whatever the noise on the two numbers, their sum's being within 6 standard deviations of its own."""
    first = share * TAIL * noise
    second = together * math.sqrt(2) * noise - first
    values = (positive + round(first), others + round(second))
    told = UnitCounts(("test",), values, noise).told()
    assert Counts(numbers=told, noise=noise).most_units("test") >= positive + others


@pytest.mark.parametrize("epsilon", [0.5, 3.0, 8.0])
def test_honest_clinics_pass_with_their_own_noise(epsilon: float) -> None:
    """Counts, weight and histograms as a clinic makes them, of no patients and of many, each many times."""
    study = study_of(privacy={"epsilon": epsilon})
    plan, intake = plan_of(study), Intake(study, RUN)
    assert plan.evaluation is not None
    sigma, evaluation = plan.counts.noise_multiplier, plan.evaluation.noise_multiplier
    for size in (0, 1, 40) * 20:
        records = {part: tuple(record(f"{part}-{n}", n % 3 == 0) for n in range(size)) for part in PARTS}
        counts = UnitCounts(PARTS, noised(records, "patient", sigma, NoiseSource()), sigma)
        told = intake.counts(_described({**counts.told(), "noise": sigma}), "a")
        units = [f"{n}" for n in range(size)]
        scored = noised_histograms(
            {"test": (np.full(size, 0.99), np.arange(size) % 3 == 0, units)}, evaluation, NoiseSource(), EDGES
        )["test"]
        weight = max(counts.units("train"), 1)
        update = intake.update(_trained(study, weight, scored, evaluation), 2, told, INITIAL)
        assert update.weight == weight


def test_declared_figures_are_rough() -> None:
    """Which part a patient is in is chance: a test part may well have more than its share of the figures."""
    study = study_of(privacy=NOISED)
    figures = declared(100, 10, PARTS, PartitionSpec(validation=0.1, test=0.2))
    told = Intake(study, RUN).counts(_described({**figures.told(), "noise": 0.0}), "a")
    assert told.of("validation", "units") == 10
    assert told.most_units("validation") == 100
    patients = 30
    scored = (np.full(patients, 0.01), np.zeros(patients), [str(n) for n in range(patients)])
    validation = noised_histograms({"validation": scored}, EVALUATION_NOISE, NoiseSource(), EDGES)["validation"]
    Intake(study, RUN).update(_trained(study, 70, validation, EVALUATION_NOISE), 2, told, INITIAL)


def test_more_units_than_a_clinic_may_have_are_refused() -> None:
    study = study_of(privacy=NOISED)
    counts = introduced(study, validation_units=9, validation_positive_units=3)
    many = 500
    scored = (np.full(many, 0.01), np.zeros(many), [str(n) for n in range(many)])
    validation = noised_histograms({"validation": scored}, EVALUATION_NOISE, NoiseSource(), EDGES)["validation"]
    with pytest.raises(DataError, match="its validation histogram counts more units than the 9 that it told"):
        Intake(study, RUN).update(_trained(study, 30, validation, EVALUATION_NOISE), 2, counts, INITIAL)


@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-3])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0, 300.0])
def test_the_noise_that_a_clinic_plans_is_believed(epsilon: float, delta: float) -> None:
    study = study_of(privacy={"epsilon": epsilon, "delta": delta, "evaluation": "public"})
    assert study.privacy is not None
    planned = plan_of(study).counts.noise_multiplier
    assert planned <= largest_count_noise(study.privacy)
    if epsilon <= 8:
        assert largest_count_noise(study.privacy) < 2.5 * planned


def test_what_a_clinic_told_is_on_disk_for_whoever_goes_on(tmp_path: Path) -> None:
    study = study_of(2, rounds=1, privacy=NOISED)
    grid = grid_of(clinics_of(study, "ab"))
    run = Run(tmp_path / "run", study, grid, expected=2)
    members = Members(study, run.folder, run.terms, Recorder())
    members.gather(exchange.FlowerChannel(grid))
    members.remember()
    register = _Register.model_validate_json(run.folder.members.read_bytes())
    assert {name: known.counts for name, known in register.clinics.items()} == members.counts
    assert members.counts["a"].noise == COUNT_NOISE


def test_the_parts_are_those_that_a_clinic_counts_in_units() -> None:
    assert unit_parts(study_of()) == ()
    assert unit_parts(study_of(privacy=PUBLIC)) == ("train",)
    assert unit_parts(study_of(privacy=NOISED)) == PARTS


def record(name: str, positive: bool) -> LesionRecord:
    return LesionRecord(
        image=f"{name}.jpg",
        target=int(positive),
        diagnosis="mel" if positive else "nv",
        patient_id=name,
        lesion_id=None,
        dup_group=None,
        age=None,
        sex=None,
        site=None,
        source="here",
    )


def _described(counts: dict[str, float]) -> Reply:
    return Reply(1, RecordDict({"counts": MetricRecord(counts)}), None, 0)


def _trained(study: StudyProtocol, weight: int, validation: NoisyHistogram, evaluation: float) -> Reply:
    """An honest answer to the second round, with this histogram."""
    clinic = FakeClinic("a", study, images=weight)
    request = exchange.request(2, study, RUN, INITIAL)
    content = changed(
        validation=lambda _c: arrays(validation.to_arrays()),
        account=lambda c: MetricRecord({**c.metric_records["account"], "evaluation": evaluation}),
    )(clinic.train(request))
    assert study.privacy is not None
    assert evaluation <= largest_multiplier(study, study.privacy)
    return Reply(1, content, None, 0)
