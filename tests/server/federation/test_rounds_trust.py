"""The round loop with clinics that send what is not to be believed: they fail, and harm nobody else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict

from melfed.common import messages
from melfed.common.errors import QuorumError, RunError
from melfed.server.runs.checkpoints import last_checkpoint
from melfed.server.runs.outcome import Outcome
from tests.server.fakes import (
    INITIAL,
    Run,
    Tamper,
    arrays,
    assert_equal,
    changed,
    clinics_of,
    grid_of,
    held,
    metrics,
    noised_scores_of,
    scores_of,
    study_of,
)

# Replies that are not to be believed. The one of clinic c is bad; a and b must come out as if c were not there.


def tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Tamper:
    def make(content: RecordDict) -> ArrayRecord:
        sent = {name: array.copy() for name, array in held(content.array_records["tensors"]).items()}
        change(sent)
        return arrays(sent)

    return changed(tensors=make)


def spoilt(value: float) -> Tamper:
    return tensors(lambda held: held["w"].__setitem__((1, 2), value))


def settings_(**values: object) -> Tamper:
    return changed(request=lambda c: ConfigRecord({**c.config_records["request"], **values}))


def validation(change: Callable[[dict[str, np.ndarray]], object]) -> Tamper:
    def make(_content: RecordDict) -> ArrayRecord:
        sent = {name: array.copy() for name, array in scores_of("c", "validation", 9).to_arrays().items()}
        change(sent)
        return arrays(sent)

    return changed(validation=make)


HOSTILE: dict[str, tuple[Tamper, str]] = {
    "nan": (spoilt(np.nan), "tensor w holds values that are not finite"),
    "infinite": (spoilt(-np.inf), "tensor w holds values that are not finite"),
    "shape": (tensors(lambda t: t.update(w=t["w"].T.copy())), "tensor w has shape (4, 3), not (3, 4)"),
    "a value beyond the model's bound": (
        tensors(lambda t: t["b"].fill(1025)),
        "tensor b holds a value of 1025, beyond the 1024 that the round's mean takes; lower the learning rate",
    ),
    "broadcast": (tensors(lambda t: t.update(b=np.zeros((), np.float32))), "tensor b has shape (), not (3,)"),
    "dtype": (tensors(lambda t: t.update(b=t["b"].astype(np.float64))), "tensor b is float64, not float32"),
    "missing": (tensors(lambda t: t.pop("b")), "lacks b"),
    "unknown": (tensors(lambda t: t.update({"x\ny": t["b"]})), "has unknown x y"),
    "huge": (spoilt(1e20), "its update has norm 1e+20, beyond all use (1e+12)"),
    "no tensors": (changed(tensors=lambda _c: None), "lacks b (2/0 in all)"),
    "refused": (lambda _c: RecordDict({"refused": ConfigRecord({"reason": "not\x1b[2J today"})}), "not?[2J today"),
    "1e12 images": (metrics(weight=1e12), "claims a weight of 1e+12, said 40 training images before"),
    "one image more": (metrics(weight=41), "claims a weight of 41, said 40 training images before"),
    "no images": (metrics(weight=0), "claims a weight of 0,"),
    "less than no images": (metrics(weight=-5), "claims a weight of -5,"),
    "half an image": (metrics(weight=1.5), "claims a weight of 1.5,"),
    "nan images": (metrics(weight=np.nan), "claims a weight of nan,"),
    "endless images": (metrics(weight=np.inf), "claims a weight of inf,"),
    "nan loss": (metrics(loss=np.nan), "its training loss is nan; lower the learning rate"),
    "endless loss": (metrics(loss=np.inf), "its training loss is inf"),
    "huge loss": (metrics(loss=1e308), "its training loss is 1e+308"),
    "negative loss": (metrics(loss=-1e300), "its training loss is -1e+300"),
    "no metrics": (changed(metrics=lambda _c: None), "claims a weight of nan,"),
    "digest": (settings_(digest="f" * 64), "the reply is to another study or round"),
    "round": (settings_(round=7), "the reply is to another study or round"),
    "run": (settings_(run="another"), "the reply is to another run"),
    "no request": (changed(request=lambda _c: None), "the reply is to another study or round"),
}


@pytest.fixture(scope="module")
def without_c(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    study = study_of(rounds=1, quorum=0.5)
    return Run(tmp_path_factory.mktemp("honest") / "run", study, grid_of(clinics_of(study, "ab"))).conduct()


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_believed_fails_its_clinic_alone(tmp_path: Path, name: str, without_c: Outcome) -> None:
    study = study_of(rounds=1, quorum=0.5)
    tamper, reason = HOSTILE[name]
    clinics = clinics_of(study)
    clinics[2].tamper = {messages.TRAIN: tamper}
    # The bad reply comes first, so that whatever it left behind would be in the way of the others.
    run = Run(tmp_path / "run", study, grid_of(clinics, order=lambda ready: ready[::-1]))
    assert_equal(run.conduct().models[""], without_c.models[""])
    (event,) = run.events("round")
    assert event["answered"] == ["a", "b"]
    assert list(event["failed"]) == ["c"]
    assert reason in event["failed"]["c"]
    assert event["failed"]["c"].isprintable()
    assert event["train_loss"] == pytest.approx(1.0)
    assert ("replied", "c", event["failed"]["c"]) in run.observer.calls


def in_second_round(tamper: Tamper) -> Tamper:
    """Tamper with the second round's reply alone."""
    return lambda content: tamper(content) if content.config_records["request"]["round"] == 2 else content


SCORES: dict[str, tuple[Tamper, str]] = {
    "no validation": (changed(validation=lambda _c: None), "score histogram: missing"),
    "negative counts": (validation(lambda h: h["positives"].__setitem__(3, -1)), "negative entry"),
    "counts that disagree": (validation(lambda h: h["positives"].__setitem__(3, 50)), "count different images"),
    "counts of another type": (validation(lambda h: h.update(groups=np.array([9.0]))), "not an int64 array"),
    "enormous counts": (validation(lambda h: h["negatives"].__setitem__(0, 2**62)), "beyond what"),
    "altered scores": (validation(lambda h: h["squared_error"].__setitem__(0, 1)), "squared errors does not fit"),
    "scores of other images": (
        changed(validation=lambda _c: arrays(scores_of("c", "validation", 12).to_arrays())),
        "scored 12 validation images, not 9",
    ),
    "bins on both sides of 0": (validation(lambda h: h["high"].__setitem__(0, 9.0)), "lies on both sides of 0"),
    "a bin nowhere": (validation(lambda h: h["low"].__setitem__(0, np.nan)), "or nowhere"),
    "bins out of order": (validation(lambda h: h.update(low=h["low"][::-1].copy())), "before it begins"),
    "a bin too much": (validation(lambda h: h.update(low=np.append(h["low"], 99.0))), "different numbers"),
    "scores with noise": (
        changed(validation=lambda _c: arrays(noised_scores_of("c", "validation", 9).to_arrays())),
        "its validation histogram has noise, against the study",
    ),
}


@pytest.fixture(scope="module")
def without_c_in_the_second(tmp_path_factory: pytest.TempPathFactory) -> Run:
    study = study_of(rounds=2, quorum=0.5)
    clinics = clinics_of(study)
    clinics[2].tamper = {messages.TRAIN: in_second_round(lambda _content: Error(code=1, reason="ill"))}
    run = Run(tmp_path_factory.mktemp("honest") / "run", study, grid_of(clinics))
    run.conduct()
    return run


@pytest.mark.parametrize("name", SCORES)
def test_scores_that_cannot_be_believed_fail_their_clinic_alone(
    tmp_path: Path, name: str, without_c_in_the_second: Run
) -> None:
    study = study_of(rounds=2, quorum=0.5)
    tamper, reason = SCORES[name]
    clinics = clinics_of(study)
    clinics[2].tamper = {messages.TRAIN: in_second_round(tamper)}
    run = Run(tmp_path / "run", study, grid_of(clinics, order=lambda ready: ready[::-1]))
    run.conduct()
    honest = without_c_in_the_second
    for which in (run, honest):
        assert [event["answered"] for event in which.events("round")] == [["a", "b", "c"], ["a", "b"]]
    last, expected = (last_checkpoint(which.folder.checkpoints, study.digest) for which in (run, honest))
    assert_equal(last.model, expected.model)
    assert run.events("validation") == honest.events("validation")
    assert reason in run.events("round")[1]["failed"]["c"]


def test_scores_that_were_not_asked_for_are_not_looked_at(tmp_path: Path) -> None:
    study = study_of(rounds=1)
    clinics = clinics_of(study)
    clinics[2].tamper = {messages.TRAIN: validation(lambda h: h["positives"].__setitem__(3, -1))}
    run = Run(tmp_path / "run", study, grid_of(clinics))
    run.conduct()
    assert run.events("round")[0]["failed"] == {}
    assert [event["round"] for event in run.events("validation")] == [1]


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (settings_(digest="f" * 64), "the reply is to another study or round"),
        (changed(test=lambda _c: None), "score histogram: missing"),
        (changed(test=lambda _c: arrays(scores_of("c", "test", 500).to_arrays())), "scored 500 test images, not 12"),
        (
            changed(validation=lambda _c: arrays(scores_of("c", "test", 12).to_arrays())),
            "scored 12 validation images, not 9",
        ),
        (lambda _c: RecordDict({"refused": ConfigRecord({"reason": "no more"})}), "no more"),
    ],
)
def test_an_evaluation_that_cannot_be_believed_is_left_out(tmp_path: Path, tamper: Tamper, reason: str) -> None:
    study = study_of(rounds=1, quorum=0.5)
    clinics = clinics_of(study)
    clinics[2].tamper = {messages.EVALUATE: tamper}
    run = Run(tmp_path / "run", study, grid_of(clinics, order=lambda ready: ready[::-1]))
    outcome = run.conduct()
    assert list(outcome.test) == ["a", "b"]
    assert list(outcome.clinics) == ["a", "b", "c"]
    pooled = scores_of("a", "validation", 9) + scores_of("b", "validation", 9)
    assert run.events("validation")[-1]["histogram"] == pooled.to_lists()
    ((_, _, told),) = [call for call in run.observer.of("replied") if call[2]]
    assert reason in str(told)


def test_an_evaluation_without_a_quorum_can_be_taken_up_again(tmp_path: Path) -> None:
    study = study_of(rounds=1)
    clinics = clinics_of(study)
    clinics[2].tamper = {messages.EVALUATE: lambda _content: Error(code=1, reason="ill")}
    run = Run(tmp_path / "run", study, grid_of(clinics))
    with pytest.raises(QuorumError, match="2 of 3 clinics answered, 3 are needed: c: ill"):
        run.conduct()
    clinics[2].tamper = {}
    assert list(run.conduct().test) == ["a", "b", "c"]
    assert [clinic.asked.count((messages.TRAIN, 1)) for clinic in clinics] == [1, 1, 1]


def identity(**values: object) -> Tamper:
    return changed(identity=lambda c: ConfigRecord({**c.config_records["identity"], **values}))


def counts(**values: float) -> Tamper:
    return changed(counts=lambda c: MetricRecord({**c.metric_records["counts"], **values}))


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (identity(clinic="a"), "a clinic named a takes part already"),
        (identity(clinic=""), "calls itself ''"),
        (identity(clinic="c\nc"), r"calls itself 'c\nc'"),
        (identity(clinic="c" * 1000), "has 1 to 200 printable characters"),
        (identity(digest="f" * 64), "clinic c holds study ffffffffffff, not"),
        (identity(digest=""), "clinic c holds study , not"),
        (changed(identity=lambda _c: None), "calls itself ''"),
        (counts(train_images=-1), "clinic c counts -1 train images"),
        (counts(test_groups=np.inf), "clinic c counts inf test groups"),
        (counts(test_groups=np.nan), "clinic c counts nan test groups"),
        (counts(validation_positives=0.5), "clinic c counts 0.5 validation positives"),
        (counts(train_images=1e12), "clinic c counts 1e+12 train images"),
        (
            identity(synthetic="perhaps"),
            "clinic c says 'perhaps' of whether its images are synthetic, not True or False",
        ),
        (changed(counts=lambda _c: None), "clinic c counts with noise of nan; the study needs none above 0"),
        (lambda _c: Error(code=1, reason="no such app"), "no such app"),
    ],
)
def test_a_clinic_that_introduces_itself_badly_takes_no_part(tmp_path: Path, tamper: Tamper, reason: str) -> None:
    study = study_of(rounds=1)
    clinics = clinics_of(study)
    clinics[2].tamper = {messages.DESCRIBE: tamper}
    with pytest.raises(QuorumError) as caught:
        Run(tmp_path / "run", study, grid_of(clinics)).conduct()
    message = str(caught.value)
    # What it calls itself is good enough to tell of it, unless that is no name, or somebody else's.
    label = "c" if reason.startswith("clinic c") else "node 102"
    assert message.startswith(f"2 of 3 clinics answered, 3 are needed: {label}: ")
    assert reason in message
    assert "\n" not in message
    lenient = study.with_changes("federation", quorum=0.5)
    for clinic in clinics:
        clinic.study = lenient
    if "digest" not in reason:
        run = Run(tmp_path / "lenient", lenient, grid_of(clinics))
        assert list(run.conduct().clinics) == ["a", "b"]
        (event,) = run.events("round")
        assert reason in event["failed"][label], "whoever is not let in is not forgotten"
        assert event["declined"] == {}
        assert run.observer.of("replied")[0] == ("replied", label, event["failed"][label])


@pytest.mark.parametrize("algorithm", ["fedavgm", "fedadam", "fedyogi"])
def test_the_longest_update_that_is_taken_does_not_overflow(tmp_path: Path, algorithm: str) -> None:
    """Of what the mean takes whatever it is: in the weighted one, values have a bound by the model."""
    study = study_of(rounds=1, algorithm=algorithm, server_learning_rate=100.0, robust="median")
    clinics = clinics_of(study)
    for clinic in clinics:
        clinic.tamper = {messages.TRAIN: tensors(lambda held: [tensor.fill(2e11) for tensor in held.values()])}
    run = Run(tmp_path / "run", study, grid_of(clinics), {name: np.zeros_like(t) for name, t in INITIAL.items()})
    assert all(np.isfinite(tensor).all() for tensor in run.conduct().models[""].values())
    assert len(run.events("round")[0]["answered"]) == 3


def test_a_model_that_overflows_ends_the_run_before_it_is_checkpointed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("melfed.server.federation.reply_checks.MAX_NORM", np.inf)
    monkeypatch.setattr("melfed.common.aggregation.fixed_point.HEADROOM", 2.0**128)
    study = study_of(rounds=3, algorithm="fedavgm", quorum=0.5, server_learning_rate=100.0)
    clinics = clinics_of(study, "ab")
    clinics[1].tamper = {messages.TRAIN: tensors(lambda held: held["w"].fill(3e38))}
    run = Run(tmp_path / "run", study, grid_of(clinics))
    with pytest.raises(RunError, match="after round 1 w is not finite; begin a new run with a lower"):
        run.conduct()
    saved = last_checkpoint(run.folder.checkpoints, study.digest)
    assert saved is not None
    assert saved.round == 0
    assert_equal(saved.model, INITIAL)
