"""What a clinic's reply must be."""

import math

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noisy_evaluation import noised_histograms
from melfed.client.privacy.plan import plan_of
from melfed.client.worker.unit_counts import UnitCounts, noised
from melfed.common.data.records import LesionRecord
from melfed.common.data.subgroups import cell_names
from melfed.common.errors import DataError, DeclinedError
from melfed.common.metrics.noisy_histogram import NoisyHistogram
from melfed.common.study.evaluation_noise import largest_multiplier
from melfed.common.study.protocol import StudyProtocol
from melfed.server.federation.reply_checks import MAX_NAME, Intake, check_name, raise_refusal
from melfed.server.flower import channel as exchange
from melfed.server.flower.channel import Reply
from melfed.server.runs.counts import PARTS, Counts
from tests.common.noisy import EDGES
from tests.server.fakes import (
    EVALUATION_NOISE,
    INITIAL,
    FakeClinic,
    arrays,
    changed,
    held,
    study_of,
    subgroups_of,
)

NOISED, PUBLIC = {"epsilon": 3.0}, {"epsilon": 3.0, "evaluation": "public"}


RUN = "0" * 16


TAIL = 6.0
"""Standard deviations beyond which a normal number lies once in 10^9 times."""


def introduced(study: StudyProtocol, **values: float) -> Counts:
    """What is believed of a clinic that says this of itself, and otherwise what a scripted one says."""
    content = FakeClinic("a", study).describe(RecordDict())
    content["counts"] = MetricRecord({**content.metric_records["counts"], **values})
    return Intake(study, RUN).counts(Reply(1, content, None, 0), "a")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({}, "nothing"),
        ({"synthetic": "yes"}, "'yes'"),
        ({"synthetic": 1}, "'1'"),
        ({"synthetic": "a\nb" * 999}, "'a b"),
    ],
)
def test_who_does_not_say_whether_its_images_are_synthetic_takes_no_part(said: dict, shown: str) -> None:
    content = FakeClinic("a", study_of()).describe(RecordDict())
    content["identity"] = ConfigRecord(said)
    with pytest.raises(DataError, match=f"^clinic a says {shown}.*of whether its images are synthetic") as raised:
        Intake(study_of(), RUN).counts(Reply(1, content, None, 0), "a")
    assert len(str(raised.value)) < 500
    assert "\n" not in str(raised.value)


def test_the_origin_of_a_clinics_images_is_kept_with_its_counts() -> None:
    content = FakeClinic("a", study_of()).describe(RecordDict())
    for synthetic in (True, False):
        content["identity"] = ConfigRecord({"synthetic": synthetic})
        assert Intake(study_of(), RUN).counts(Reply(1, content, None, 0), "a").synthetic is synthetic


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


def test_more_units_than_a_clinic_may_have_are_refused() -> None:
    study = study_of(privacy=NOISED)
    counts = introduced(study, validation_units=9, validation_positive_units=3)
    many = 500
    scored = (np.full(many, 0.01), np.zeros(many), [str(n) for n in range(many)])
    validation = noised_histograms({"validation": scored}, EVALUATION_NOISE, NoiseSource(), EDGES)["validation"]
    with pytest.raises(DataError, match="its validation histogram counts more units than the 9 that it told"):
        Intake(study, RUN).update(_trained(study, 30, validation, EVALUATION_NOISE), 2, counts, INITIAL)


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
    identity = ConfigRecord({"synthetic": False})
    return Reply(1, RecordDict({"counts": MetricRecord(counts), "identity": identity}), None, 0)


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


class Refusal:
    """A reply that gives a reason in place of an answer."""

    def __init__(self, error: str | None = None, declined: str | None = None) -> None:
        self.error, self.declined = error, declined


def test_a_refusal_keeps_its_reason_and_declining_its_kind() -> None:
    raise_refusal(Refusal())  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"^broken$"):
        raise_refusal(Refusal(error="broken"))  # type: ignore[arg-type]
    with pytest.raises(DeclinedError, match=r"^spent$"):
        raise_refusal(Refusal(error="broken", declined="spent"))  # type: ignore[arg-type]


@given(st.text(max_size=200))
def test_a_name_is_taken_if_it_can_be_printed_as_it_is(name: str) -> None:
    if 0 < len(name) <= MAX_NAME and name.isprintable():
        assert check_name(name) == name
    else:
        with pytest.raises(DataError, match=f"a name has 1 to {MAX_NAME} printable characters") as refused:
            check_name(name)
        assert str(refused.value).isprintable()


ASKED = ("age", "sex", "source")


def evaluated(study: StudyProtocol, **records: object) -> object:
    """What is believed of a clinic's evaluation, some of whose subgroups' arrays are others."""
    clinic = FakeClinic("a", study)
    content = clinic.evaluate(exchange.request(study.federation.rounds, study, RUN, INITIAL))
    if records:
        named = held(content["subgroups"])
        content["subgroups"] = arrays({k: v for k, v in {**named, **records}.items() if v is not None})
    return Intake(study, RUN).evaluation(Reply(1, content, None, 0), 2, introduced(study), INITIAL)


@pytest.mark.parametrize("privacy", [None, NOISED, PUBLIC])
def test_all_cells_that_the_study_asks_for_are_taken(privacy: dict[str, object] | None) -> None:
    study = study_of(privacy=privacy, subgroups=ASKED)
    found = evaluated(study)
    assert tuple(found.subgroups) == cell_names(ASKED)
    expected = subgroups_of("a", study, ("age", "sex"), 12)
    assert all(found.subgroups[cell].to_lists() == histogram.to_lists() for cell, histogram in expected.items())
    assert evaluated(study_of(privacy=privacy, subgroups=("source",))).subgroups == {}


def of_cell(cell: str, value: object, study: StudyProtocol) -> dict[str, object]:
    names = subgroups_of("a", study, ("age", "sex"), 12)["sex/0"].to_arrays()
    return {f"{cell}/{name}": value for name in names}


def test_cells_that_are_missing_or_unknown_are_refused() -> None:
    for privacy in (None, NOISED):
        study = study_of(privacy=privacy, subgroups=ASKED)
        names = subgroups_of("a", study, ("age", "sex"), 12)["sex/0"].to_arrays()
        with pytest.raises(DataError, match=r"^tells 7 subgroups of its test images, and the study has 8; use"):
            evaluated(study, **of_cell("sex/1", None, study))
        with pytest.raises(DataError, match=r"^tells 9 subgroups"):
            evaluated(study, **{f"sex/3/{name}": array for name, array in names.items()})


def test_a_clinic_that_tells_subgroups_unasked_is_refused() -> None:
    asked, plain = study_of(subgroups=("sex",)), study_of()
    content = FakeClinic("a", plain).evaluate(exchange.request(2, plain, RUN, INITIAL))
    content["subgroups"] = arrays(
        {f"sex/0/{n}": a for n, a in subgroups_of("a", asked, ("sex",), 12)["sex/0"].to_arrays().items()}
    )
    with pytest.raises(DataError, match=r"^tells 1 subgroups of its test images, and the study has 0"):
        Intake(plain, RUN).evaluation(Reply(1, content, None, 0), 2, introduced(plain), INITIAL)


def test_exact_cells_are_the_test_part_and_have_no_noise() -> None:
    study, noised_study = study_of(subgroups=ASKED), study_of(privacy=NOISED, subgroups=ASKED)
    empty = subgroups_of("a", study, ("age", "sex"), 12)["sex/2"].to_arrays()
    with pytest.raises(DataError, match=r"^its subgroups by sex have 6 images, its test part 12$"):
        evaluated(study, **{f"sex/1/{name}": array for name, array in empty.items()})
    noisy = subgroups_of("a", noised_study, ("age", "sex"), 12)["sex/0"].to_arrays()
    gone = dict.fromkeys((f"sex/0/{name}" for name in empty), None)
    with pytest.raises(DataError, match=r"^its subgroup sex/0 and its test images differ in whether they have noise$"):
        evaluated(study, **gone | {f"sex/0/{name}": array for name, array in noisy.items()})


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("edges", lambda edges: edges * 2, "has other score bins than the model; update melfed"),
        ("noise_variance", lambda variance: variance + 1, "states other noise than its account"),
        ("positives", lambda sums: sums + 2**40, "counts more units than the 12 that it told"),
    ],
)
def test_noised_cells_are_of_the_model_and_have_the_noise_that_was_accounted_for(
    name: str, change: object, reason: str
) -> None:
    study = study_of(privacy=NOISED, subgroups=ASKED)
    array = subgroups_of("a", study, ("age", "sex"), 12)["age/3"].to_arrays()[name]
    with pytest.raises(DataError, match=rf"^its subgroup age/3 {reason}$"):
        evaluated(study, **{f"age/3/{name}": change(array)})
