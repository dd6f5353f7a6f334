"""The round loop with scripted clinics: who is asked, what is believed, what is written, and how it goes on."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

import server.rounds
from common.errors import QuorumError, RunError, StorageError
from common.histogram import ScoreHistogram
from common.protocol import StudyProtocol
from server import exchange
from server.aggregation import WeightedMean
from server.checkpoints import last_checkpoint
from server.outcome import Outcome
from server.rounds import Rounds
from server.run_folder import RunFolder
from tests.server.fakes import FakeClinic, FakeGrid, Recorder, Tamper, arrays, scores_of, study_of

INITIAL = {"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), "b": np.zeros(3, np.float32)}


@pytest.fixture(autouse=True)
def _poll_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "POLL_SECONDS", 0.002)


def clinics_of(study: StudyProtocol, names: str = "abc") -> list[FakeClinic]:
    return [FakeClinic(name, study, images=20 + 10 * index) for index, name in enumerate(names)]


def grid_of(clinics: list[FakeClinic], first_node: int = 100, **options) -> FakeGrid:
    return FakeGrid({first_node + index: clinic for index, clinic in enumerate(clinics)}, **options)


class Run:
    """A run folder and what is needed to conduct its study, more than once."""

    def __init__(
        self,
        path: Path,
        study: StudyProtocol,
        grid: FakeGrid,
        initial: Mapping[str, np.ndarray] = INITIAL,
        expected: int | None = None,
    ) -> None:
        self.study, self.grid, self.initial = study, grid, dict(initial)
        self.folder = RunFolder.create(path, study) if not path.exists() else RunFolder.open(path)
        self.observer, self.stop = Recorder(), threading.Event()
        self.expected = len(grid.clinics) if expected is None else expected

    def conduct(self) -> Outcome:
        rounds = Rounds(self.study, self.folder, self.initial, self.expected, self.observer, self.stop)
        rounds.conduct(self.grid)
        assert rounds.outcome is not None
        return rounds.outcome

    def events(self, kind: str) -> list[dict]:
        return [event for event in self.folder.events() if event["event"] == kind]

    def timeless(self) -> list[dict]:
        return [{key: value for key, value in event.items() if key != "seconds"} for event in self.folder.events()]


def assert_equal(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def by_hand(clinics: list[FakeClinic], rounds: int) -> dict[str, np.ndarray]:
    """FedAvg by a plain loop."""
    model = dict(INITIAL)
    for number in range(1, rounds + 1):
        replies = [(clinic.trained(model, number), clinic.images) for clinic in clinics]
        weight = sum(images for _, images in replies)
        model = {
            name: np.asarray(
                sum(tensors[name].astype(np.float64) * images for tensors, images in replies) / weight, np.float32
            )
            for name in model
        }
    return model


def test_a_whole_run(tmp_path: Path) -> None:
    study = study_of(rounds=3)
    clinics = clinics_of(study)
    run = Run(tmp_path / "run", study, grid_of(clinics))
    outcome = run.conduct()
    model = outcome.models[""]
    for name, expected in by_hand(clinics, 3).items():
        np.testing.assert_allclose(model[name], expected, rtol=1e-6)
    assert outcome.everywhere == {}
    assert list(outcome.clinics) == list(outcome.test) == ["a", "b", "c"]
    assert outcome.clinics["b"]["train_images"] == 30
    for name in "abc":
        assert outcome.test[name].to_lists() == scores_of(name, "test", 12).to_lists()
    for clinic in clinics:
        assert clinic.asked == [(exchange.DESCRIBE, 0), *[(exchange.TRAIN, n) for n in (1, 2, 3)], ("evaluate", 3)]
    saved = last_checkpoint(run.folder.checkpoints, study.digest)
    assert saved is not None
    assert saved.round == 3
    assert_equal(saved.model, model)


def test_events_of_a_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", study_of(rounds=2), grid_of(clinics_of(study_of(rounds=2))))
    run.conduct()
    kinds = [(event["event"], event["round"]) for event in run.folder.events()]
    assert kinds == [("round", 1), ("validation", 1), ("round", 2), ("validation", 2)]
    pooled = sum((scores_of(name, "validation", 9) for name in "abc"), ScoreHistogram.empty())
    for event in run.events("validation"):
        assert event["histogram"] == pooled.to_lists()
    for number, event in enumerate(run.events("round"), start=1):
        assert event["train_loss"] == pytest.approx(1 / number)
        assert event["answered"] == ["a", "b", "c"]
        assert event["failed"] == {}
        assert event["seconds"] >= 0


def test_the_observer_is_told_each_step(tmp_path: Path) -> None:
    study = study_of(rounds=1)
    clinics = clinics_of(study)
    clinics[1].tamper = {exchange.EVALUATE: lambda _content: Error(code=1, reason="gone")}
    study_quorum = study.with_changes("federation", quorum=0.6)
    for clinic in clinics:
        clinic.study = study_quorum
    run = Run(tmp_path / "run", study_quorum, grid_of(clinics))
    run.conduct()
    assert [call for call in run.observer.calls if call[0] != "waiting"] == [
        ("started", ["a", "b", "c"], 1, 1),
        ("round_started", 1, ["a", "b", "c"]),
        *[("replied", name, None) for name in "abc"],
        ("round_finished", 1, pytest.approx(1.0)),
        ("evaluating", ["a", "b", "c"]),
        ("replied", "a", None),
        ("replied", "b", "gone"),
        ("replied", "c", None),
    ]


def test_neither_order_nor_timing_nor_node_ids_change_a_bit(tmp_path: Path) -> None:
    study = study_of(rounds=3, algorithm="fedyogi")
    one = Run(tmp_path / "one", study, grid_of(clinics_of(study)))
    two = Run(
        tmp_path / "two",
        study,
        grid_of(clinics_of(study)[::-1], 5, order=lambda ready: ready[::-1], trickle=True),
    )
    assert_equal(one.conduct().models[""], two.conduct().models[""])
    assert one.timeless() == two.timeless()
    assert two.observer.of("waiting")


def test_bytes_are_those_of_the_trainable_parameters(tmp_path: Path) -> None:
    study = study_of(rounds=2)
    rng = np.random.default_rng(0)
    shapes = {"features.weight": (256, 400), "features.bias": (400,), "head.weight": (1, 256)}
    initial = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    parameters = sum(tensor.size for tensor in initial.values())
    assert parameters >= 100_000
    run = Run(tmp_path / "run", study, grid_of(clinics_of(study)), initial)
    run.conduct()
    for event in run.events("round"):
        for direction in ("bytes_up", "bytes_down"):
            assert event[direction] == pytest.approx(parameters * 4 * 3, rel=0.05)


# Clinics that fail, and how many may.


def test_too_few_clinics_end_the_run_with_their_reasons_and_the_checkpoint_stays(tmp_path: Path) -> None:
    study = study_of(rounds=3)
    clinics = clinics_of(study)
    ill = {exchange.TRAIN: lambda content: Error(code=1, reason="no space\non device") if due(content) else content}

    def due(content: RecordDict) -> bool:
        return content.config_records["request"]["round"] == 2

    clinics[1].tamper = ill
    run = Run(tmp_path / "run", study, grid_of(clinics))
    with pytest.raises(QuorumError) as caught:
        run.conduct()
    assert str(caught.value) == "2 of 3 clinics answered, 3 are needed: b: no space on device"
    saved = last_checkpoint(run.folder.checkpoints, study.digest)
    assert saved is not None
    assert saved.round == 1
    clinics[1].tamper = {}
    whole = Run(tmp_path / "whole", study, grid_of(clinics_of(study)))
    assert_equal(run.conduct().models[""], whole.conduct().models[""])
    assert run.timeless() == whole.timeless()


@pytest.mark.parametrize(("quorum", "enough"), [(0.67, False), (0.66, True), (0.3, True)])
def test_quorum_is_a_share_of_those_asked(tmp_path: Path, quorum: float, enough: bool) -> None:
    study = study_of(rounds=1, quorum=quorum)
    clinics = clinics_of(study)
    clinics[0].tamper = {exchange.TRAIN: lambda _content: Error(code=1, reason="ill")}
    run = Run(tmp_path / "run", study, grid_of(clinics))
    if not enough:
        with pytest.raises(QuorumError, match="2 of 3 clinics answered, 3 are needed: a: ill"):
            run.conduct()
        return
    model = run.conduct().models[""]
    for name, expected in by_hand(clinics[1:], 1).items():
        np.testing.assert_allclose(model[name], expected, rtol=1e-6)
    assert run.events("round")[0]["answered"] == ["b", "c"]
    assert run.events("round")[0]["failed"] == {"a": "ill"}


def test_all_failing_is_no_quorum_however_small_it_is(tmp_path: Path) -> None:
    study = study_of(1, rounds=1, quorum=0.01)
    clinic = FakeClinic("a", study, tamper={exchange.TRAIN: lambda _content: Error(code=1, reason="ill")})
    with pytest.raises(QuorumError, match="0 of 1 clinics answered, 1 are needed: a: ill"):
        Run(tmp_path / "run", study, grid_of([clinic])).conduct()


def test_a_clinic_that_never_answers_costs_no_more_than_the_deadline(tmp_path: Path) -> None:
    study = study_of(rounds=1, quorum=0.6, deadline_seconds=0.3)
    clinics = clinics_of(study)
    clinics[2].tamper = {exchange.TRAIN: lambda _content: None}
    run = Run(tmp_path / "run", study, grid_of(clinics))
    started = monotonic()
    run.conduct()
    assert monotonic() - started < 3
    assert run.events("round")[0]["failed"] == {"c": "no answer within 0.3 s"}


def test_clinics_that_never_come_are_waited_for_until_the_deadline(tmp_path: Path) -> None:
    study = study_of(rounds=1, deadline_seconds=0.2)
    run = Run(tmp_path / "run", study, grid_of(clinics_of(study)), expected=4)
    with pytest.raises(QuorumError, match="3 of 4 clinics answered, 4 are needed: no answer"):
        run.conduct()
    nobody = Run(tmp_path / "nobody", study, FakeGrid({}), expected=2)
    with pytest.raises(QuorumError, match="0 of 2 clinics"):
        nobody.conduct()


def test_clinics_that_come_late_take_part(tmp_path: Path) -> None:
    class Filling(FakeGrid):
        looks = 0

        def get_node_ids(self) -> list[int]:
            self.looks += 1
            return list(self.clinics)[: self.looks]

    study = study_of(rounds=1)
    grid = Filling(dict(enumerate(clinics_of(study), start=100)))
    assert list(Run(tmp_path / "run", study, grid).conduct().clinics) == ["a", "b", "c"]


def test_an_error_is_the_fault_of_the_node_whose_message_it_answers(tmp_path: Path) -> None:
    study = study_of(rounds=1, quorum=0.6)
    clinics = clinics_of(study)
    clinics[2].tamper = {exchange.TRAIN: lambda _content: Error(code=3, reason="message expired")}
    # Node 1 is also what Flower gives as the sender of its own errors.
    run = Run(tmp_path / "run", study, grid_of(clinics, first_node=1))
    run.conduct()
    assert run.events("round")[0]["failed"] == {"c": "message expired"}


def test_stopping_ends_the_run_promptly(tmp_path: Path) -> None:
    study = study_of(rounds=1, deadline_seconds=600.0)
    clinics = clinics_of(study)
    clinics[0].tamper = {exchange.TRAIN: lambda _content: None}
    run = Run(tmp_path / "run", study, grid_of(clinics))
    timer = threading.Timer(0.2, run.stop.set)
    timer.start()
    started = monotonic()
    with pytest.raises(RunError, match="stopped early; go on with --resume"):
        run.conduct()
    timer.join()
    assert monotonic() - started < 3


# Replies that are not to be believed. The one of clinic c is bad; a and b must come out as if c were not there.


def changed(**records: Callable[[RecordDict], object]) -> Tamper:
    """Replace records of an honest answer; a record that becomes None is taken out."""

    def tamper(content: RecordDict) -> RecordDict:
        for name, make in records.items():
            value = make(content)
            if value is None:
                del content[name]
            else:
                content[name] = value
        return content

    return tamper


def tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Tamper:
    def make(content: RecordDict) -> ArrayRecord:
        held = {name: array.numpy().copy() for name, array in content.array_records["tensors"].items()}
        change(held)
        return arrays(held)

    return changed(tensors=make)


def spoilt(value: float) -> Tamper:
    return tensors(lambda held: held["w"].__setitem__((1, 2), value))


def metrics(**values: float) -> Tamper:
    return changed(metrics=lambda c: MetricRecord({**c.metric_records["metrics"], **values}))


def settings_(**values: object) -> Tamper:
    return changed(request=lambda c: ConfigRecord({**c.config_records["request"], **values}))


def validation(change: Callable[[dict[str, np.ndarray]], object]) -> Tamper:
    def make(_content: RecordDict) -> ArrayRecord:
        held = {name: array.copy() for name, array in scores_of("c", "validation", 9).to_arrays().items()}
        change(held)
        return arrays(held)

    return changed(validation=make)


HOSTILE: dict[str, tuple[Tamper, str]] = {
    "nan": (spoilt(np.nan), "tensor w holds values that are not finite"),
    "infinite": (spoilt(-np.inf), "tensor w holds values that are not finite"),
    "shape": (tensors(lambda t: t.update(w=t["w"].T.copy())), "tensor w has shape (4, 3), not (3, 4)"),
    "broadcast": (tensors(lambda t: t.update(b=np.zeros((), np.float32))), "tensor b has shape (), not (3,)"),
    "dtype": (tensors(lambda t: t.update(b=t["b"].astype(np.float64))), "tensor b is float64, not float32"),
    "missing": (tensors(lambda t: t.pop("b")), "lacks b"),
    "unknown": (tensors(lambda t: t.update({"x\ny": t["b"]})), "has unknown x y"),
    "no tensors": (changed(tensors=lambda _c: None), "lacks b (2/0 in all)"),
    "refused": (lambda _c: RecordDict({"refused": ConfigRecord({"reason": "not\x1b[2J today"})}), "not?[2J today"),
    "1e12 images": (metrics(images=1e12), "claims 1e+12 training images, said 40 before"),
    "one image more": (metrics(images=41), "claims 41 training images, said 40 before"),
    "no images": (metrics(images=0), "claims 0 training images"),
    "less than no images": (metrics(images=-5), "claims -5 training images"),
    "half an image": (metrics(images=1.5), "claims 1.5 training images"),
    "nan images": (metrics(images=np.nan), "claims nan training images"),
    "endless images": (metrics(images=np.inf), "claims inf training images"),
    "nan loss": (metrics(loss=np.nan), "its training loss is nan; lower the learning rate"),
    "endless loss": (metrics(loss=np.inf), "its training loss is inf"),
    "huge loss": (metrics(loss=1e308), "its training loss is 1e+308"),
    "negative loss": (metrics(loss=-1e300), "its training loss is -1e+300"),
    "no metrics": (changed(metrics=lambda _c: None), "claims nan training images"),
    "digest": (settings_(digest="f" * 64), "the reply is to another study or round"),
    "round": (settings_(round=7), "the reply is to another study or round"),
    "no request": (changed(request=lambda _c: None), "the reply is to another study or round"),
    "no validation": (changed(validation=lambda _c: None), "score histogram: missing"),
    "negative counts": (validation(lambda h: h["positives"].__setitem__(3, -1)), "negative entry"),
    "counts that disagree": (validation(lambda h: h["positives"].__setitem__(3, 50)), "count different images"),
    "counts of another type": (validation(lambda h: h.update(groups=np.array([9.0]))), "not an int64 array"),
    "enormous counts": (validation(lambda h: h["negatives"].__setitem__(0, 2**62)), "beyond what"),
    "altered scores": (validation(lambda h: h["squared_error"].__setitem__(0, 1)), "squared errors does not fit"),
    "another folder's scores": (
        changed(validation=lambda _c: arrays(scores_of("c", "validation", 12).to_arrays())),
        "scored 12 validation images, said 9 before",
    ),
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
    clinics[2].tamper = {exchange.TRAIN: tamper}
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


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (settings_(digest="f" * 64), "the reply is to another study or round"),
        (changed(test=lambda _c: None), "score histogram: missing"),
        (changed(test=lambda _c: arrays(scores_of("c", "test", 500).to_arrays())), "scored 500 test images, said 12"),
        (changed(validation=lambda _c: arrays(scores_of("c", "test", 12).to_arrays())), "scored 12 validation images"),
        (lambda _c: RecordDict({"refused": ConfigRecord({"reason": "no more"})}), "no more"),
    ],
)
def test_an_evaluation_that_cannot_be_believed_is_left_out(tmp_path: Path, tamper: Tamper, reason: str) -> None:
    study = study_of(rounds=1, quorum=0.5)
    clinics = clinics_of(study)
    clinics[2].tamper = {exchange.EVALUATE: tamper}
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
    clinics[2].tamper = {exchange.EVALUATE: lambda _content: Error(code=1, reason="ill")}
    run = Run(tmp_path / "run", study, grid_of(clinics))
    with pytest.raises(QuorumError, match="2 of 3 clinics answered, 3 are needed: c: ill"):
        run.conduct()
    clinics[2].tamper = {}
    assert list(run.conduct().test) == ["a", "b", "c"]
    assert [clinic.asked.count((exchange.TRAIN, 1)) for clinic in clinics] == [1, 1, 1]


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
        (changed(counts=lambda _c: None), "clinic c counts nan train images"),
        (lambda _c: Error(code=1, reason="no such app"), "no such app"),
    ],
)
def test_a_clinic_that_introduces_itself_badly_takes_no_part(tmp_path: Path, tamper: Tamper, reason: str) -> None:
    study = study_of(rounds=1)
    clinics = clinics_of(study)
    clinics[2].tamper = {exchange.DESCRIBE: tamper}
    with pytest.raises(QuorumError) as caught:
        Run(tmp_path / "run", study, grid_of(clinics)).conduct()
    message = str(caught.value)
    assert message.startswith("2 of 3 clinics answered, 3 are needed: node 102: ")
    assert reason in message
    assert "\n" not in message
    lenient = study.with_changes("federation", quorum=0.5)
    for clinic in clinics:
        clinic.study = lenient
    if "digest" not in reason:
        outcome = Run(tmp_path / "lenient", lenient, grid_of(clinics)).conduct()
        assert list(outcome.clinics) == ["a", "b"]


def test_a_model_that_overflows_ends_the_run_before_it_is_checkpointed(tmp_path: Path) -> None:
    study = study_of(rounds=3, algorithm="fedavgm", quorum=0.5, server_learning_rate=100.0)
    clinics = clinics_of(study, "ab")
    clinics[1].tamper = {exchange.TRAIN: tensors(lambda held: held["w"].fill(3e38))}
    run = Run(tmp_path / "run", study, grid_of(clinics))
    with pytest.raises(RunError, match="after round 1 w is not finite; begin a new run with a lower"):
        run.conduct()
    saved = last_checkpoint(run.folder.checkpoints, study.digest)
    assert saved is not None
    assert saved.round == 0
    assert_equal(saved.model, INITIAL)


# Going on from a checkpoint.


class PowerCutError(Exception):
    """Ends a run at some point of it, without a chance to tidy up."""


def cut_at(kind: str, number: int) -> Callable[[Message], None]:
    def check(message: Message) -> None:
        metadata = message.metadata
        if (metadata.message_type, metadata.group_id) == (kind, str(number)):
            raise PowerCutError

    return check


class FailingGrid(FakeGrid):
    """A grid that a message can bring down."""

    check: Callable[[Message], None] = staticmethod(lambda _message: None)

    def push_messages(self, messages):
        messages = list(messages)
        for message in messages:
            self.check(message)
        return super().push_messages(messages)


@pytest.mark.parametrize("algorithm", ["fedavg", "fedavgm", "fedyogi"])
@pytest.mark.parametrize("where", ["round 1", "round 3", "checkpoint 3", "evaluation"])
def test_a_resumed_run_ends_as_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str, where: str
) -> None:
    study = study_of(rounds=4, algorithm=algorithm, cohort=0.7, server_learning_rate=0.5)
    whole = Run(tmp_path / "whole", study, grid_of(clinics_of(study)))
    expected = whole.conduct()

    grid = FailingGrid(dict(enumerate(clinics_of(study), start=100)))
    run = Run(tmp_path / "run", study, grid)
    what, _, number = where.partition(" ")
    with monkeypatch.context() as patch:
        if what == "checkpoint":

            def save(folder, checkpoint):
                if checkpoint.round == int(number):
                    raise PowerCutError
                original(folder, checkpoint)

            original = server.rounds.save_checkpoint
            patch.setattr(server.rounds, "save_checkpoint", save)
        else:
            grid.check = cut_at(*((exchange.TRAIN, int(number)) if what == "round" else (exchange.EVALUATE, 4)))
        with pytest.raises(PowerCutError):
            run.conduct()
    grid.check = cut_at("nothing", 0)
    # A power cut may also leave half a line behind.
    with (run.folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "rou')
    again = Run(run.folder.path, study, FakeGrid(dict(enumerate(clinics_of(study), start=7))))
    outcome = again.conduct()
    first = {"round 1": 1, "round 3": 3, "checkpoint 3": 3, "evaluation": 5}[where]
    assert again.observer.of("started") == [("started", ["a", "b", "c"], first, 4)]
    assert [call[1] for call in again.observer.of("round_started")] == list(range(first, 5))
    assert_equal(outcome.models[""], expected.models[""])
    assert again.timeless() == whole.timeless()
    assert [h.to_lists() for h in outcome.test.values()] == [h.to_lists() for h in expected.test.values()]


def test_a_disk_that_fills_up_loses_one_round_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(rounds=3)
    run = Run(tmp_path / "run", study, grid_of(clinics_of(study)))
    original = server.rounds.save_checkpoint

    def save(folder, checkpoint):
        if checkpoint.round == 2:
            raise StorageError("disk full")
        original(folder, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(server.rounds, "save_checkpoint", save)
        with pytest.raises(StorageError):
            run.conduct()
    assert last_checkpoint(run.folder.checkpoints, study.digest).round == 1
    whole = Run(tmp_path / "whole", study, grid_of(clinics_of(study)))
    assert_equal(run.conduct().models[""], whole.conduct().models[""])
    assert run.timeless() == whole.timeless()


def test_checkpoints_of_another_study_are_refused(tmp_path: Path) -> None:
    first = study_of(rounds=1)
    Run(tmp_path / "run", first, grid_of(clinics_of(first))).conduct()
    second = study_of(rounds=2)
    with pytest.raises(RunError, match="of study"):
        Run(tmp_path / "run", second, grid_of(clinics_of(second))).conduct()


# Cohorts.


def cohorts(path: Path, study: StudyProtocol, names: str, first_node: int = 100) -> list[list[str]]:
    run = Run(path, study, grid_of(clinics_of(study, names), first_node))
    run.conduct()
    return [call[2] for call in run.observer.of("round_started")]


def test_a_cohort_is_a_part_of_the_clinics_that_seed_and_round_decide(tmp_path: Path) -> None:
    study = study_of(6, rounds=9, cohort=0.5)
    chosen = cohorts(tmp_path / "one", study, "abcdef")
    assert all(len(set(names)) == len(names) == 3 for names in chosen)
    assert len({tuple(names) for names in chosen}) > 1, "not the same ones every round"
    assert set().union(*chosen) == set("abcdef"), "for this seed, everybody's turn comes"
    # Node ids are Flower's and new in each run; they must not matter, nor in which order clinics come.
    assert cohorts(tmp_path / "two", study, "fedcba", 7) == chosen
    other = StudyProtocol.model_validate({**study.model_dump(), "seed": 1})
    assert cohorts(tmp_path / "three", other, "abcdef") != chosen


def test_only_the_cohort_is_asked_to_train_and_all_are_evaluated(tmp_path: Path) -> None:
    study = study_of(4, rounds=3, cohort=0.5)
    clinics = clinics_of(study, "abcd")
    run = Run(tmp_path / "run", study, grid_of(clinics))
    run.conduct()
    for number, event in enumerate(run.events("round"), start=1):
        assert event["answered"] == [c.name for c in clinics if (exchange.TRAIN, number) in c.asked]
        assert len(event["answered"]) == 2
    assert all((exchange.EVALUATE, 3) in clinic.asked for clinic in clinics)


@pytest.mark.parametrize(("cohort", "size"), [(0.01, 1), (0.34, 1), (0.5, 2), (0.99, 3), (1.0, 3)])
def test_a_cohort_has_at_least_one_clinic(tmp_path: Path, cohort: float, size: int) -> None:
    study = study_of(rounds=1, cohort=cohort)
    (names,) = cohorts(tmp_path / "run", study, "abc")
    assert len(names) == size


def test_the_weights_are_numbers_of_images(tmp_path: Path) -> None:
    """A clinic that trains on a part of its images weighs as that part."""
    study = study_of(2, rounds=1)
    clinics = clinics_of(study, "ab")
    clinics[0].tamper = {exchange.TRAIN: metrics(images=3, loss=9.0)}
    run = Run(tmp_path / "run", study, grid_of(clinics))
    mean = WeightedMean()
    mean.add(clinics[0].trained(INITIAL, 1), 3)
    mean.add(clinics[1].trained(INITIAL, 1), 30)
    assert_equal(run.conduct().models[""], mean.mean())
    assert run.events("round")[0]["train_loss"] == pytest.approx((3 * 9.0 + 30 * 1.0) / 33)
