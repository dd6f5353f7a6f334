"""The round loop with histograms that are well-formed alone, and would spoil the sum: their clinic fails alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import MetricRecord, RecordDict

from melfed.common import messages
from melfed.common.metrics.histogram import MAX_IMAGES
from melfed.common.metrics.noisy_histogram import SCALE, NoisyHistogram, histogram_from_arrays, noise_variance, pooled
from melfed.common.study.evaluation_noise import LARGEST_MULTIPLIER, largest_multiplier
from melfed.common.study.protocol import StudyProtocol
from melfed.server.federation.reply_checks import MAX_EVALUATED, Intake
from melfed.server.runs.state import change_state
from tests.server.fakes import (
    EVALUATION_NOISE,
    Run,
    Tamper,
    arrays,
    clinics_of,
    held,
    noised_scores_of,
    scores_of,
    study_of,
    subgroups_of,
)
from tests.server.lossy import LossyGrid, deployed, quickly

NAMES = frozenset("abc")
PART = {messages.TRAIN: "validation", messages.EVALUATE: "test"}
Change = Callable[[NoisyHistogram], dict[str, np.ndarray]]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    quickly(monkeypatch)


def noised_study(**privacy: object) -> StudyProtocol:
    return study_of(rounds=2, quorum=0.6, grace_seconds=0.0, privacy={"evaluation": "noised", **privacy})


def run_of(path: Path, study: StudyProtocol, tamper: dict[str, Tamper]) -> Run:
    """A deployed run, in which the hostile clinic's name is the first: its answer is kept, and summed, first."""
    clinics = clinics_of(study)
    clinics[0].tamper = tamper
    return deployed(path, study, LossyGrid(dict(enumerate(clinics, start=100))), expected=NAMES)


def stating(sigma: float | None = None, **arrays_of: Change) -> Tamper:
    """Send a histogram of which arrays are changed, and a σ with it."""

    def tamper(content: RecordDict) -> RecordDict:
        for part in ("validation", "test"):
            if part in content:
                honest = noised_scores_of("a", part, 9 if part == "validation" else 12)
                sent = {**honest.to_arrays(), **{name: make(honest) for name, make in arrays_of.items()}}
                histogram_from_arrays(sent)  # alone it is a histogram
                content[part] = arrays(sent)
        if sigma is not None:
            content["account"] = MetricRecord({**content.metric_records["account"], "evaluation": sigma})
        return content

    return tamper


def variance(value: int) -> Change:
    return lambda _honest: np.array([value])


def far_too_many(honest: NoisyHistogram) -> np.ndarray:
    return honest.positives + MAX_IMAGES * SCALE // 2


HOSTILE = {
    "other noise": (stating(noise_variance=variance(2**61)), "histogram states other noise than its account"),
    "no noise": (stating(noise_variance=variance(2**40)), "histogram states other noise than its account"),
    "all noise": (
        stating(LARGEST_MULTIPLIER, noise_variance=variance(noise_variance(LARGEST_MULTIPLIER))),
        "the σ of its histograms is 1e+04; the study needs none above",
    ),
    "other bins": (stating(edges=lambda h: h.edges + 1.0), "histogram has other score bins than the model"),
    "too many": (stating(positives=far_too_many), "histogram counts more units than the "),
}


@pytest.mark.parametrize("kind", PART)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_histogram_that_would_spoil_the_sum_fails_its_clinic_alone(tmp_path: Path, name: str, kind: str) -> None:
    tamper, reason = HOSTILE[name]
    run = run_of(tmp_path / "run", noised_study(), {kind: tamper})
    outcome = run.conduct()
    told = [row["reason"] for row in run.terms.audit.of(2007)]
    assert told, "it is in the audit log"
    assert all(reason in why for why in told)
    assert {row["clinic"] for row in run.terms.audit.of(2007)} == {"a"}
    answered = [event["answered"] for event in run.events("round")]
    if kind == messages.TRAIN:
        # The first round's model is validated in the second; a σ is stated in each.
        assert answered == [["b", "c"] if name == "all noise" else ["a", "b", "c"], ["b", "c"]]
        assert list(outcome.test) == ["a", "b", "c"]
    else:
        assert answered == [["a", "b", "c"]] * 2
        assert list(outcome.test) == ["b", "c"]
    honest = run_of(tmp_path / "honest", noised_study(), {}).conduct()
    for clinic in "bc":
        assert outcome.test[clinic].to_lists() == honest.test[clinic].to_lists()


def test_a_run_that_was_ended_by_a_histogram_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was kept, by whatever version of melfed believed it, does not fail every run that goes on."""
    study = noised_study()
    run = run_of(tmp_path / "run", study, {messages.TRAIN: HOSTILE["other noise"][0]})
    with monkeypatch.context() as patch:
        patch.setattr(Intake, "_check_noised", lambda *_: None)
        patch.setattr("melfed.server.federation.rounds.plus", lambda *_: noised_scores_of("a", "validation", 9))
        patch.setattr("melfed.server.federation.rounds.save_checkpoint", _save_all_but_the_second)
        with pytest.raises(KeyboardInterrupt):
            run.conduct()
    assert (run.folder.pending / "a.safetensors").exists()
    change_state(run.folder.path, wanted=True, status="queued")
    again = run_of(run.folder.path, study, {messages.TRAIN: HOSTILE["other noise"][0]})
    outcome = again.conduct()
    assert list(outcome.test) == ["a", "b", "c"]
    assert again.events("round")[1]["answered"] == ["b", "c"]
    assert "other noise" in again.events("round")[1]["failed"]["a"]


def _save_all_but_the_second(folder: Path, state: object) -> None:
    from melfed.server.runs.checkpoints import save_checkpoint

    if state.round == 2:  # type: ignore[attr-defined]
        raise KeyboardInterrupt
    save_checkpoint(folder, state)  # type: ignore[arg-type]


def vast(content: RecordDict) -> RecordDict:
    """Claim as many images to be scored as may be, and score them consistently."""
    if "counts" in content:
        counts = dict(content.metric_records["counts"])
        for part in ("validation", "test"):
            counts |= {f"{part}_{what}": MAX_EVALUATED for what in ("images", "positives", "groups")}
        content["counts"] = MetricRecord(counts)
    for part in ("validation", "test"):
        if part in content:
            ten = scores_of("a", part, 10).to_arrays()
            times = MAX_EVALUATED // 10
            sent = {name: array if name in {"low", "high"} else array * times for name, array in ten.items()}
            content[part] = arrays(sent)
    return content


def test_clinics_whose_images_have_no_sum_are_left_out_and_the_others_are_not(tmp_path: Path) -> None:
    """All that clinics may claim together is ten times what one may: eleven must lie, and the last is refused."""
    names = "abcdefghijklm"
    study = study_of(len(names), rounds=2, quorum=0.5, grace_seconds=0.0)
    clinics = clinics_of(study, names)
    for clinic in clinics[2:]:
        clinic.tamper = dict.fromkeys((messages.DESCRIBE, messages.TRAIN, messages.EVALUATE), vast)
    grid = LossyGrid(dict(enumerate(clinics, start=100)))
    run = deployed(tmp_path / "run", study, grid, expected=frozenset(names))
    outcome = run.conduct()
    refused = set(names) - set(run.events("round")[1]["answered"])
    assert refused == {"l", "m"}, "nine of them fit beside two honest ones"
    assert set(names) - set(outcome.test) == {"l", "m"}
    assert {row["clinic"] for row in run.terms.audit.of(2007)} == {"l", "m"}


def test_nobody_has_that_many_images_to_score(tmp_path: Path) -> None:
    study = study_of(rounds=1, quorum=0.6, grace_seconds=0.0)

    def ten_millions(content: RecordDict) -> RecordDict:
        counts = {**content.metric_records["counts"], "validation_images": MAX_IMAGES}
        return RecordDict({**content, "counts": MetricRecord(counts)})

    run = run_of(tmp_path / "run", study, {messages.DESCRIBE: ten_millions})
    assert list(run.conduct().clinics) == ["b", "c"]
    assert "counts 1e+07 validation images" in run.events("round")[0]["failed"]["a"]


def test_honest_noise_is_within_what_the_study_needs() -> None:
    study = noised_study()
    assert study.privacy is not None
    assert largest_multiplier(study, study.privacy) >= EVALUATION_NOISE


def test_subgroups_are_pooled_and_kept_and_who_lies_about_one_is_left_out(tmp_path: Path) -> None:
    study = noised_study().with_changes("evaluation", subgroups=("sex", "source"))

    def lying(content: RecordDict) -> RecordDict:
        cells = held(content["subgroups"])
        content["subgroups"] = arrays({**cells, "sex/1/noise_variance": cells["sex/1/noise_variance"] + 1})
        return content

    run = run_of(tmp_path / "run", study, {messages.EVALUATE: lying})
    outcome = run.conduct()
    assert set(outcome.test) == {"b", "c"}
    theirs = [subgroups_of(name, study, ("sex",), 12) for name in "bc"]
    expected = {cell: pooled([found[cell] for found in theirs]).to_lists() for cell in theirs[0]}
    assert {cell: histogram.to_lists() for cell, histogram in outcome.subgroups.items()} == expected
    run.folder.write_outcome(outcome)
    assert [event["histograms"] for event in run.events("subgroups")] == [expected]
    run.folder.forget_evaluation()
    assert run.events("subgroups") == []
