"""The one round of a study with scripted clinics: who is asked, what is believed, what is kept."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord, RecordDict

from melfed.common import messages
from melfed.common.errors import QuorumError
from melfed.common.moments.noisy_moments import SCALE, NoisyMoments, noise_variance
from melfed.common.study.protocol import ModelSpec, StudyProtocol
from melfed.server.federation.one_round import OneRound
from melfed.server.flower.channel import FlowerChannel
from melfed.server.results.solved import awaits_evaluation, read_solution, solve_run
from melfed.server.runs.releases import Releases
from tests.server.fakes import (
    NOISE,
    FakeClinic,
    Run,
    Tamper,
    arrays,
    assert_equal,
    changed,
    clinics_of,
    grid_of,
    study_of,
)

NECK = 4
INITIAL = {"head.weight": np.zeros((1, NECK), np.float32), "head.bias": np.zeros(1, np.float32)}


def once(**federation: object) -> StudyProtocol:
    study = study_of(mode="federated", rounds=1, privacy={"recipe": "manual", "evaluation": "public"}, **federation)
    model = ModelSpec(neck=NECK, train="head")
    content = {**dict(study), "model": model, "federation": study.federation.model_copy(update={"mode": "one_round"})}
    return StudyProtocol(**content)


def run_of(path: Path, clinics: list[FakeClinic], study: StudyProtocol, **conduct: object) -> Run:
    return Run(path, study, grid_of(clinics, order=lambda ready: ready[::-1]), INITIAL, **conduct)


def kept(run: Run) -> Releases:
    return Releases(run.folder.releases, run.study.digest)


def asked(clinics: list[FakeClinic]) -> list[Counter[str]]:
    return [Counter(kind for kind, _ in clinic.asked) for clinic in clinics]


def test_the_head_is_that_of_what_was_released_in_whatever_order_it_came(tmp_path: Path) -> None:
    study = once()
    clinics = clinics_of(study)
    run = run_of(tmp_path / "run", clinics, study)
    outcome = run.conduct()
    releases = kept(run).kept()
    for clinic in clinics:
        assert np.array_equal(releases[clinic.name].train.positives, clinic.moments("train").positives)
        assert np.array_equal(releases[clinic.name].validation.negatives, clinic.moments("validation").negatives)
    assert_equal(outcome.models[""], solve_run(study, releases).tensors())
    assert asked(clinics) == [Counter({messages.DESCRIBE: 2, messages.SUMMARISE: 1, messages.EVALUATE: 1})] * 3
    (event,) = run.events("round")
    assert (event["answered"], event["train_loss"]) == (["a", "b", "c"], None)
    assert read_solution(run.folder).evaluated


def test_who_answers_days_later_is_waited_for_by_a_run_that_is_taken_up(tmp_path: Path) -> None:
    study = once()
    clinics = clinics_of(study)
    clinics[1].tamper = {messages.SUMMARISE: lambda _: RecordDict()}
    with pytest.raises(QuorumError, match="2 of 3 clinics answered"):
        run_of(tmp_path / "run", clinics, study).conduct()
    again = clinics_of(study)
    run = run_of(tmp_path / "run", again, study)
    run.conduct()
    assert [clinic[messages.SUMMARISE] for clinic in asked(again)] == [0, 1, 0]
    assert list(kept(run).kept()) == ["a", "b", "c"]


def test_a_damaged_release_is_asked_for_again(tmp_path: Path) -> None:
    study = once()
    clinics = clinics_of(study)
    clinics[2].tamper = {messages.SUMMARISE: lambda _: RecordDict()}
    with pytest.raises(QuorumError):
        run_of(tmp_path / "run", clinics, study).conduct()
    path = next((tmp_path / "run" / "releases").glob("a*"))
    path.write_bytes(path.read_bytes()[:-1])
    again = clinics_of(study)
    run_of(tmp_path / "run", again, study).conduct()
    assert [clinic[messages.SUMMARISE] for clinic in asked(again)] == [1, 0, 1]


def started(**federation: object) -> StudyProtocol:
    """Three rounds of training that begin at a solved head."""
    study = once(**federation)
    return StudyProtocol(
        **{
            **dict(study),
            "federation": study.federation.model_copy(update={"mode": "federated", "start": "one_round", "rounds": 3}),
        }
    )


def test_rounds_begin_at_the_head_of_what_was_released(tmp_path: Path) -> None:
    study = started()
    clinics = clinics_of(study)
    run = run_of(tmp_path / "run", clinics, study)
    seen: list[dict[str, np.ndarray]] = []
    for clinic in clinics:
        honest = clinic.trained

        def trained(model: dict[str, np.ndarray], number: int, honest=honest) -> dict[str, np.ndarray]:
            if number == 1:
                seen.append(dict(model))
            return honest(model, number)

        clinic.trained = trained  # type: ignore[method-assign]
    outcome = run.conduct()
    solved = solve_run(study, kept(run).kept()).tensors()
    assert len(seen) == 3
    for model in seen:
        assert_equal(model, solved)
    assert any((outcome.models[""][name] != tensor).any() for name, tensor in solved.items())
    assert (
        asked(clinics)
        == [Counter({messages.DESCRIBE: 2, messages.SUMMARISE: 1, messages.TRAIN: 3, messages.EVALUATE: 1})] * 3
    )
    (event,) = run.events("start")
    assert event["answered"] == ["a", "b", "c"]
    assert event["bytes_up"] > 0
    assert not read_solution(run.folder).evaluated
    assert not awaits_evaluation(run.folder)


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("written", ["releases", "checkpoint", "event", "solution"])
def test_killed_between_release_and_rounds_it_goes_on_at_the_same_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, deployed: bool
) -> None:
    """The process dies after the step that is named; nobody is asked for moments twice."""
    study = started()

    class Killed(BaseException):
        pass

    def dying(*_: object, **__: object) -> None:
        raise Killed

    place = {
        "releases": "melfed.server.federation.one_round.solve_run",
        "checkpoint": "melfed.server.runs.folder.RunFolder.append",
        "event": "melfed.server.federation.one_round.write_solution",
        "solution": "melfed.server.federation.rounds.Rounds._round",
    }[written]
    monkeypatch.setattr(place, dying)
    first = clinics_of(study)
    with pytest.raises(Killed):
        run_of(tmp_path / "run", first, study, deployed=deployed).conduct()
    monkeypatch.undo()
    assert [clinic[messages.SUMMARISE] for clinic in asked(first)] == [1, 1, 1]
    again = clinics_of(study)
    run = run_of(tmp_path / "run", again, study, deployed=deployed)
    outcome = run.conduct()
    assert [clinic[messages.SUMMARISE] for clinic in asked(again)] == [0, 0, 0]
    assert len(run.events("start")) == 1
    whole = run_of(tmp_path / "whole", clinics_of(study), study).conduct()
    assert_equal(outcome.models[""], whole.models[""])


def test_a_clinic_that_releases_nothing_may_train_where_the_quorum_holds(tmp_path: Path) -> None:
    study = started(quorum=0.5)
    clinics = clinics_of(study)
    clinics[0].tamper = {messages.SUMMARISE: lambda _: RecordDict()}
    run = run_of(tmp_path / "run", clinics, study)
    run.conduct()
    assert list(kept(run).kept()) == ["b", "c"]
    assert read_solution(run.folder).clinics == ("b", "c")
    assert all(event["answered"] == ["a", "b", "c"] for event in run.events("round"))


def test_too_few_releases_end_the_run_before_any_round(tmp_path: Path) -> None:
    study = started()
    clinics = clinics_of(study)
    clinics[0].tamper = {messages.SUMMARISE: lambda _: RecordDict()}
    with pytest.raises(QuorumError, match="2 of 3 clinics answered"):
        run_of(tmp_path / "run", clinics, study).conduct()
    assert not any(clinic[messages.TRAIN] for clinic in asked(clinics))


def moments(positives: np.ndarray | None = None, sigma: float = NOISE, features: int = NECK) -> ArrayRecord:
    own = np.zeros(1 + features + features * (features + 1) // 2, np.int64)
    return arrays(NoisyMoments(own if positives is None else positives, own, noise_variance(sigma)).to_arrays())


FALSE: dict[str, Tamper] = {
    "other noise than its account": changed(train=lambda _: moments(sigma=1.0)),
    "are of 5 features, not 4": changed(train=lambda _: moments(features=5)),
    "count more units than it told": changed(train=lambda _: moments(np.full(15, 10**6 * SCALE))),
    "missing or unknown arrays": changed(validation=lambda _: arrays({})),
    "the σ of its moments": changed(account=lambda _: MetricRecord({"epsilon": 1.0, "noise_multiplier": 1e5})),
}


@pytest.mark.parametrize("reason", FALSE)
def test_what_cannot_be_true_is_not_in_the_head(tmp_path: Path, reason: str) -> None:
    study = once(quorum=0.5)
    clinics = clinics_of(study)
    clinics[0].tamper = {messages.SUMMARISE: FALSE[reason]}
    run = run_of(tmp_path / "run", clinics, study)
    run.conduct()
    (event,) = run.events("round")
    assert reason in event["failed"]["a"]
    assert list(kept(run).kept()) == ["b", "c"]


def test_a_late_clinic_joins_and_nobody_else_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = once()
    clinics = clinics_of(study)
    run = run_of(tmp_path / "run", clinics[:2], study)
    run.conduct()
    replaced: list[list[str]] = []
    # The model's file is made when a run finishes.
    monkeypatch.setattr(
        "melfed.server.results.post_processing.replace_head", lambda _f, _s, releases: replaced.append(list(releases))
    )
    for clinic in clinics:
        clinic.asked.clear()
    late = run_of(tmp_path / "run", clinics[2:], study)
    OneRound(study, late.folder, INITIAL, late.terms, late.observer).join(FlowerChannel(late.grid))
    assert replaced == [["a", "b", "c"]]
    assert asked(clinics)[:2] == [Counter(), Counter()]
    assert asked(clinics)[2][messages.EVALUATE] == 0
