"""How the report says things."""

import numpy as np
import pytest

from melfed.common.metrics.exact import Interval, histogram_metrics
from melfed.common.study.protocol import FederationSpec, StopSpec, StudyProtocol
from melfed.server.report.words import (
    at_half,
    capital,
    counted,
    duration,
    final_model,
    hint,
    initial_weights,
    limits_of,
    megabytes,
    plural,
    spoken,
    value_of,
    way,
)
from melfed.server.runs.summary import PublicData
from tests.server.fake_run import scores


def test_hints_count() -> None:
    rng = np.random.default_rng(0)
    few = histogram_metrics(scores(rng, 400, 0.01, skill=1))
    assert hint(few) == f"only {few.melanomas} melanoma{'s' * (few.melanomas != 1)} in test"
    assert hint(histogram_metrics(scores(rng, 400, 0.3, skill=1))) is None
    assert hint(histogram_metrics(scores(rng, 9, 0, skill=1)), "validation") == "no melanoma in validation"


@pytest.mark.parametrize(
    ("called", "reason"),
    [
        (0.0, "no image scores 0.5 or more, so that all get the same answer"),
        (0.001, "hardly any image scores 0.5 or more"),
        (1.0, "no image scores less than 0.5"),
        (0.999, "hardly any image scores less than 0.5"),
        (0.3, "at this threshold the model does no better than guessing"),
        (None, "at this threshold the model does no better than guessing"),
    ],
)
def test_a_balanced_accuracy_of_guessing_has_its_reason(called: float | None, reason: str) -> None:
    found = histogram_metrics(scores(np.random.default_rng(0), 400, 0.3, skill=1))
    guessing = found.model_copy(update={"balanced_accuracy": Interval(value=0.5002, low=0.4, high=0.6)})
    assert (at_half(guessing, called) or "").startswith(reason)
    assert at_half(found, called) is None
    undefined = found.model_copy(update={"balanced_accuracy": Interval(value=None, low=None, high=None)})
    assert at_half(undefined, called) is None


def test_amounts() -> None:
    assert [duration(s) for s in (0.04, 59.9, 61, 3_725)] == ["0.0 s", "59.9 s", "1 min 1 s", "1 h 2 min"]
    assert [megabytes(size) for size in (0, 5_000, 13_510_000, 2_345_600_000)] == ["0.00", "0.01", "13.51", "2,346"]


@pytest.mark.parametrize(
    ("interval", "value", "limits", "said"),
    [
        (
            Interval(value=0.8126, low=0.75, high=0.86),
            "0.813",
            "0.750 to 0.860",
            "0.813 (95 % interval 0.750 to 0.860)",
        ),
        (Interval(value=0.5, low=None, high=None), "0.500", None, "0.500"),
        (Interval(value=None, low=None, high=None), "undefined", None, "undefined"),
    ],
)
def test_a_value_is_spoken_with_its_limits(interval: Interval, value: str, limits: str | None, said: str) -> None:
    assert (value_of(interval), limits_of(interval), spoken(interval)) == (value, limits, said)


def test_numbers_have_their_nouns() -> None:
    assert [counted(number, "round", "rounds") for number in (0, 1, 1234)] == ["0 rounds", "1 round", "1,234 rounds"]
    assert [plural(unit) for unit in ("patient", "duplicate group", "lesion where known, else image")] == [
        "patients", "duplicate groups", "groups"
    ]  # fmt: skip
    assert (capital("melanomas"), capital("")) == ("Melanomas", "")


def test_which_model_was_scored() -> None:
    def study(**federation) -> StudyProtocol:
        return StudyProtocol(federation=FederationSpec(**federation))

    last = "the model after the last round"
    assert final_model(study(rounds=10)) == last
    assert final_model(study(rounds=10, tail_average=0.1)) == last, "one model is no average"
    assert final_model(study(rounds=10, tail_average=0.5, mode="central")) == last
    assert final_model(study(rounds=10, tail_average=0.5)).startswith("the average of the models of the last 5 rounds")
    assert final_model(study(rounds=10, stop=StopSpec())) == "the model of the best round by validation (AUROC)"
    assert final_model(study(rounds=10, stop=StopSpec(metric="auprc"), mode="local")).startswith("each clinic's model")
    assert final_model(study(rounds=10, algorithm="ditto")).startswith("each clinic's own model after the last round")


def test_initial_weights_name_their_study_and_sources() -> None:
    public = PublicData(study="isic", digest="ab" * 32, images=7529, sources=("MSK", "UDA"))
    assert initial_weights(public) == (
        "the model of study isic (digest abababababab), trained on 7,529 images of: MSK, UDA"
    )
    unknown = PublicData(study="isic", digest="ab" * 32, images=None, sources=())
    assert initial_weights(unknown).endswith("trained on images of: sources not on record")


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"images": 0, "melanomas": 0}, "no histogram of test, or nothing in it that shows under the noise"),
        (
            {"images": 50, "melanomas": 20, "auroc": Interval(value=None, low=None, high=None)},
            "too few patients in test for the noise",
        ),
        ({"images": 50, "melanomas": 5}, "only about 5 patients with a melanoma in test"),
        ({"images": 50, "melanomas": 47}, "only about 3 patients without a melanoma in test"),
        ({"images": 50, "melanomas": 20}, None),
    ],
)
def test_what_noise_hides_is_not_said_to_be_absent(metrics: dict, said: str | None) -> None:
    whole = histogram_metrics(scores(np.random.default_rng(0), 400, 0.3, skill=1))
    assert hint(whole.model_copy(update=metrics), unit="patient") == said


def test_the_way_to_a_model_says_where_rounds_began() -> None:
    assert way(StudyProtocol()) == "Federated: the clinics trained one model together"
    private = {"model": {"neck": 4}, "privacy": {"unit": "patient", "epsilon": 3.0}}
    begun = StudyProtocol.model_validate({**private, "federation": {"start": "one_round"}})
    assert way(begun).startswith(f"{way(StudyProtocol())}, beginning at a head that was solved from moments")
    once = StudyProtocol.model_validate({**private, "federation": {"mode": "one_round"}})
    assert way(once).startswith("One round")
