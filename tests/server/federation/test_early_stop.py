"""Early stopping of federated runs, with clinics whose validation is scripted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, RecordDict

import melfed.server.federation.rounds
from melfed.common import messages
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.study.protocol import FederationSpec, StopSpec, StudyProtocol
from melfed.server.federation.early_stop import best_of, chosen, in_words, metric_of, observed
from melfed.server.runs.checkpoints import Checkpoint, last_checkpoint
from melfed.server.runs.outcome import ChosenRound
from tests.server.fakes import INITIAL, FakeClinic, FakeGrid, Run, arrays, assert_equal, study_of
from tests.server.federation.test_rounds_resume import FailingGrid, PowerCutError, cut_at

ROUNDS = 6


def ranked(above: int) -> ScoreHistogram:
    """Six positives, so many of them above three negatives, the others below: an AUROC of `above` / 6."""
    scores = [1.0 if number < above else -1.0 for number in range(6)] + [0.0] * 3
    return ScoreHistogram.from_scores(scores, [1] * 6 + [0] * 3, list(range(9)))


@dataclass
class Scripted(FakeClinic):
    """A clinic whose validation says, of each round's model, how good it is."""

    skill: Sequence[int] = ()
    validated: int = 0

    def train(self, request: RecordDict) -> RecordDict:
        self.validated = int(str(request.config_records["request"]["round"])) - 1
        return super().train(request)

    def evaluate(self, request: RecordDict) -> RecordDict:
        self.validated = ROUNDS
        return super().evaluate(request)

    def scores(self, part: str, images: int) -> ArrayRecord:
        if part == "test":
            return super().scores(part, images)
        return arrays(ranked(self.skill[self.validated - 1]).to_arrays())


def a_study(**federation: object) -> StudyProtocol:
    return study_of(rounds=ROUNDS, **{"stop": StopSpec(patience=2), **federation})


def clinics_of(study: StudyProtocol, skill: Sequence[int]) -> list[FakeClinic]:
    return [Scripted(name, study, images=20 + 10 * index, skill=skill) for index, name in enumerate("abc")]


def grid_of(study: StudyProtocol, skill: Sequence[int], kind: type[FakeGrid] = FakeGrid) -> FakeGrid:
    return kind(dict(enumerate(clinics_of(study, skill), start=100)))


STOPS_EARLY = (3, 5, 4, 4, 6, 6)
CASES = {
    "stops early": (STOPS_EARLY, 5, 2, [6]),
    "the last is best": ((1, 2, 3, 4, 5, 6), 6, 6, [6]),
    "the last is not best": ((1, 2, 3, 6, 5, 4), 6, 4, [6, 7]),
    "patience ends with the rounds": ((1, 2, 6, 5, 4, 0), 6, 3, [6]),
    "a tie is not better": ((5, 5, 5, 6, 6, 6), 4, 1, [6]),
}


@pytest.mark.parametrize("name", CASES)
def test_the_final_model_is_the_best_round_s(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skill, trained, best, evaluated = CASES[name]
    models: dict[int, dict[str, np.ndarray]] = {}
    original = melfed.server.federation.rounds.save_checkpoint

    def save(folder: Path, checkpoint: Checkpoint) -> None:
        models[checkpoint.round] = checkpoint.model
        original(folder, checkpoint)

    monkeypatch.setattr(melfed.server.federation.rounds, "save_checkpoint", save)
    run = Run(tmp_path / "run", study := a_study(), grid := grid_of(study, skill))
    outcome = run.conduct()
    assert outcome.chosen == {"": ChosenRound(best, skill[best - 1] / 6, trained)}
    assert_equal(outcome.models[""], models[best])
    for clinic in grid.clinics.values():
        assert [n for kind, n in clinic.asked if kind == messages.TRAIN] == list(range(1, trained + 1))
        assert [n for kind, n in clinic.asked if kind == messages.EVALUATE] == evaluated
    # Of a run that stops early the last round's model is never validated.
    last = trained if len(evaluated) == 2 or best == ROUNDS else trained - 1
    assert [event["round"] for event in run.events("validation")] == list(range(1, last + 1))
    told = [text for _, text in run.observer.of("noticed")]
    assert len(told) == (best != ROUNDS)


def test_without_the_key_all_rounds_are_trained_and_the_last_model_is_taken(tmp_path: Path) -> None:
    study = a_study(stop=None)
    outcome = Run(tmp_path / "run", study, grid_of(study, STOPS_EARLY)).conduct()
    saved = last_checkpoint(tmp_path / "run" / "checkpoints", study.digest)
    assert saved is not None
    assert_equal(outcome.models[""], saved.model)
    assert (saved.round, outcome.chosen, saved.best, saved.stop) == (ROUNDS, {}, {}, {})


def test_only_the_rounds_that_are_validated_are_compared(tmp_path: Path) -> None:
    study = a_study(validate_every=2)
    outcome = Run(tmp_path / "run", study, grid_of(study, (6, 1, 6, 3, 6, 2))).conduct()
    assert outcome.chosen == {"": ChosenRound(4, 0.5, 6)}


class OneClass(Scripted):
    """A clinic whose validation part is one image, so that no metric is defined."""

    def describe(self, request: RecordDict) -> RecordDict:
        content = super().describe(request)
        for what in ("images", "positives", "groups"):
            content.metric_records["counts"][f"validation_{what}"] = 1
        return content

    def scores(self, part: str, images: int) -> ArrayRecord:
        return (
            super().scores(part, images)
            if part == "test"
            else arrays(ScoreHistogram.from_scores([0.5], [1], [0]).to_arrays())
        )


def test_where_no_validation_is_defined_the_last_model_is_taken(tmp_path: Path) -> None:
    study = a_study()
    outcome = Run(tmp_path / "run", study, FakeGrid({100: OneClass("a", study), 101: OneClass("b", study)})).conduct()
    assert outcome.chosen == {"": ChosenRound(ROUNDS, None, ROUNDS)}


CUTS = [(messages.TRAIN, 3), (messages.TRAIN, 5), (messages.TRAIN, 6), (messages.EVALUATE, 6), (messages.EVALUATE, 7)]


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("name", ["stops early", "the last is not best", "the last is best"])
def test_a_resumed_run_ends_as_the_uninterrupted_one(name: str, deployed: bool, tmp_path: Path) -> None:
    """Whatever message a kill comes before: the best round and the patience are those of the whole run."""
    skill, trained, *_, evaluated = CASES[name]
    study = a_study()
    whole = Run(tmp_path / "whole", study, grid_of(study, skill), deployed=deployed)
    expected = whole.conduct()
    for kind, number in CUTS:
        if (kind == messages.TRAIN and number > trained) or (kind == messages.EVALUATE and number not in evaluated):
            continue
        path = tmp_path / f"{kind}-{number}"
        grid = grid_of(study, skill, FailingGrid)
        grid.check = cut_at(kind, number)
        with pytest.raises(PowerCutError):
            Run(path, study, grid, deployed=deployed).conduct()
        again = Run(path, study, grid_of(study, skill), deployed=deployed)
        outcome = again.conduct()
        assert outcome.chosen == expected.chosen
        assert_equal(outcome.models[""], expected.models[""])
        assert again.timeless() == whole.timeless()
    # Killed after its last answer, before anything was written of it: nothing is evaluated a third time.
    last = Run(tmp_path / "whole", study, repeated := grid_of(study, skill), deployed=deployed)
    assert last.conduct().chosen == expected.chosen
    assert last.timeless() == whole.timeless()
    for clinic in repeated.clinics.values():
        assert [number for kind, number in clinic.asked if kind != messages.DESCRIBE] == evaluated[-1:]


def test_the_metric_is_that_of_the_study() -> None:
    histogram = ranked(3)
    assert metric_of(StopSpec(), histogram) == 0.5
    brier = metric_of(StopSpec(metric="brier"), histogram)
    assert brier == pytest.approx(np.mean([(1 / (1 + np.exp(-s)) - t) ** 2 for s, t in [(1, 1), (-1, 1), (0, 0)]]))
    assert metric_of(StopSpec(metric="auprc"), histogram) not in {None, 0.5, brier}


def test_a_worse_validation_keeps_the_better_model() -> None:
    spec = FederationSpec(stop=StopSpec(patience=1))
    first = Checkpoint(1, "d", INITIAL, {})
    first = observed(spec, first, 1, ranked(5))
    other = {name: tensor + 1 for name, tensor in INITIAL.items()}
    second = observed(spec, Checkpoint(2, "d", other, {}, best=first.best, stop=first.stop), 2, ranked(4))
    assert_equal(second.best, INITIAL)
    assert best_of(second).ends(spec.stop)
    assert chosen(second) == ChosenRound(1, 5 / 6, 2)
    assert observed(FederationSpec(), first, 2, ranked(6)) is first
    assert observed(spec, first, 2, None) is first


def test_what_happened_is_told_in_one_line() -> None:
    spec = StopSpec()
    assert in_words(spec, ChosenRound(4, 0.9, 7), 20) == (
        "federation.stop: stopped after round 7 of 20: no round has a better auroc than round 4, whose model is taken"
    )
    assert "stopped" not in in_words(spec, ChosenRound(4, 0.9, 20), 20)
