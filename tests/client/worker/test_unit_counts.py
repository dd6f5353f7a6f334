"""How many units a clinic says it has."""

import numpy as np
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noisy_evaluation import noised_histograms
from melfed.client.worker.unit_counts import UnitCounts, declared, noised
from melfed.common.messages import COUNTS, IDENTITY
from melfed.common.metrics.noisy_histogram import NoisyHistogram
from melfed.common.study.evaluation_noise import largest_multiplier
from melfed.common.study.protocol import PartitionSpec, StudyProtocol
from melfed.server.federation.reply_checks import Intake
from melfed.server.flower import channel as exchange
from melfed.server.flower.channel import Reply
from melfed.server.runs.counts import PARTS, Counts
from tests.common.lesions import record
from tests.common.noisy import EDGES
from tests.server.fakes import (
    COUNT_NOISE,
    EVALUATION_NOISE,
    INITIAL,
    FakeClinic,
    arrays,
    changed,
    study_of,
)

NOISED, PUBLIC = {"epsilon": 3.0}, {"epsilon": 3.0, "evaluation": "public"}


RUN = "0" * 16


def introduced(study: StudyProtocol, **values: float) -> Counts:
    """What is believed of a clinic that says this of itself, and otherwise what a scripted one says."""
    content = FakeClinic("a", study).describe(RecordDict())
    told = MetricRecord({**content.metric_records["counts"], **values})
    return Intake(study, RUN).counts(_described({**told}), "a")


def test_a_private_study_is_told_units_and_their_noise() -> None:
    counts = introduced(study_of(privacy=NOISED))
    assert set(counts.numbers) == {f"{part}_{what}" for part in PARTS for what in ("units", "positive_units")}
    assert counts.noise == COUNT_NOISE
    assert (counts.of("train", "units"), counts.of("train", "images")) == (30, 0)
    public = introduced(study_of(privacy=PUBLIC))
    assert {name for name in public.numbers if "unit" in name} == {"train_units", "train_positive_units"}
    assert public.of("test", "images") == 12
    assert introduced(study_of()).noise == 0


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


def _described(counts: dict[str, float]) -> Reply:
    identity = ConfigRecord({"synthetic": False})
    return Reply(1, RecordDict({COUNTS: MetricRecord(counts), IDENTITY: identity}), None, 0)


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


def test_units_are_counted_once_whatever_their_images_and_positive_ones_apart() -> None:
    parts = {
        "train": [record("a", patient_id="1", target=1), record("b", patient_id="1"), record("c", patient_id="2")],
        "test": [record("d", patient_id="3", target=1)],
    }
    exact = noised(parts, "patient", 0.0, NoiseSource())
    assert exact == (1, 1, 1, 0)
    counts = UnitCounts(("train", "test"), exact, 0.0)
    assert counts.units("train") == 2
    assert counts.told() == {
        "train_units": 2, "train_positive_units": 1, "test_units": 1, "test_positive_units": 1
    }  # fmt: skip


def test_noise_has_the_multiplier_as_its_standard_deviation_and_one_draw_a_number() -> None:
    class Source:
        def integers_gaussian(self, shape: tuple[int, ...], std: float) -> np.ndarray:
            assert (shape, std) == ((2,), 4.5)
            return np.array([-7, 3])

    found = noised({"train": [record("a", patient_id="1")]}, "patient", 4.5, Source())  # type: ignore[arg-type]
    assert found == (-7, 4)
    assert UnitCounts(("train",), found, 4.5).units("train") == 4, "no part has less than nobody"


def test_public_figures_are_divided_as_the_parts_are() -> None:
    figures = declared(100, 10, ("train", "validation", "test"), PartitionSpec(validation=0.1, test=0.2))
    assert figures.values == (7, 63, 1, 9, 2, 18)
    assert figures.noise == 0
