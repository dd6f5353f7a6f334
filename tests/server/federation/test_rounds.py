"""The round loop with scripted clinics: who is asked, who may fail, what is written."""

import threading
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from flwr.app import Error, RecordDict
from flwr.proto.node_pb2 import NodeInfo

from melfed.common import messages
from melfed.common.aggregation.fixed_point import fixed_point_for
from melfed.common.aggregation.weighted_mean import WeightedMean
from melfed.common.errors import QuorumError, RunError
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.study.protocol import StudyProtocol
from melfed.server.runs.checkpoints import last_checkpoint
from tests.server.fakes import (
    INITIAL,
    FakeClinic,
    FakeGrid,
    Run,
    arrays,
    assert_equal,
    clinics_of,
    grid_of,
    metrics,
    scores_of,
    study_of,
)


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
    assert outcome.clinics["b"].of("train", "images") == 30
    for name in "abc":
        assert outcome.test[name].to_lists() == scores_of(name, "test", 12).to_lists()
    for clinic in clinics:
        assert clinic.asked == [(messages.DESCRIBE, 0), *[(messages.TRAIN, n) for n in (1, 2, 3)], ("evaluate", 3)]
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


@pytest.mark.parametrize(("every", "validated"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_validation_every_so_many_rounds_and_after_the_last(tmp_path: Path, every: int, validated: list[int]) -> None:
    study = study_of(rounds=5, validate_every=every)
    run = Run(tmp_path / "run", study, grid_of(clinics_of(study)))
    run.conduct()
    assert [event["round"] for event in run.events("validation")] == validated
    assert all(event["failed"] == {} for event in run.events("round"))


def test_the_observer_is_told_each_step(tmp_path: Path) -> None:
    study = study_of(rounds=1)
    clinics = clinics_of(study)
    clinics[1].tamper = {messages.EVALUATE: lambda _content: Error(code=1, reason="gone")}
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
    ill = {messages.TRAIN: lambda content: Error(code=1, reason="no space\non device") if due(content) else content}

    def due(content: RecordDict) -> bool:
        return content.config_records["request"]["round"] == 2

    clinics[1].tamper = ill
    run = Run(tmp_path / "run", study, grid_of(clinics))
    with pytest.raises(QuorumError) as caught:
        run.conduct()
    assert str(caught.value) == (
        "2 of 3 clinics answered, 3 are needed: b: no space on device; "
        f"mend that and go on with --resume {run.folder.path}"
    )
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
    clinics[0].tamper = {messages.TRAIN: lambda _content: Error(code=1, reason="ill")}
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
    clinic = FakeClinic("a", study, tamper={messages.TRAIN: lambda _content: Error(code=1, reason="ill")})
    with pytest.raises(QuorumError, match="0 of 1 clinics answered, 1 are needed: a: ill"):
        Run(tmp_path / "run", study, grid_of([clinic])).conduct()


def test_a_clinic_that_never_answers_costs_no_more_than_the_deadline(tmp_path: Path) -> None:
    study = study_of(rounds=1, quorum=0.6, deadline_seconds=0.3)
    clinics = clinics_of(study)
    clinics[2].tamper = {messages.TRAIN: lambda _content: None}
    run = Run(tmp_path / "run", study, grid_of(clinics))
    started = monotonic()
    run.conduct()
    assert monotonic() - started < 10
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

        def get_nodes(self) -> list[NodeInfo]:
            self.looks += 1
            return super().get_nodes()[: self.looks]

    study = study_of(rounds=1)
    grid = Filling(dict(enumerate(clinics_of(study), start=100)))
    assert list(Run(tmp_path / "run", study, grid).conduct().clinics) == ["a", "b", "c"]


def test_an_error_is_the_fault_of_the_node_whose_message_it_answers(tmp_path: Path) -> None:
    study = study_of(rounds=1, quorum=0.6)
    clinics = clinics_of(study)
    clinics[2].tamper = {messages.TRAIN: lambda _content: Error(code=3, reason="message expired")}
    # Node 1 is also what Flower gives as the sender of its own errors.
    run = Run(tmp_path / "run", study, grid_of(clinics, first_node=1))
    run.conduct()
    assert run.events("round")[0]["failed"] == {"c": "message expired"}


def test_stopping_ends_the_run_promptly(tmp_path: Path) -> None:
    study = study_of(rounds=1, deadline_seconds=600.0)
    clinics = clinics_of(study)
    clinics[0].tamper = {messages.TRAIN: lambda _content: None}
    run = Run(tmp_path / "run", study, grid_of(clinics))
    timer = threading.Timer(0.2, run.stop.set)
    timer.start()
    started = monotonic()
    with pytest.raises(RunError, match="stopped early; go on with --resume"):
        run.conduct()
    timer.join()
    assert monotonic() - started < 60


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
        assert event["answered"] == [c.name for c in clinics if (messages.TRAIN, number) in c.asked]
        assert len(event["answered"]) == 2
    assert all((messages.EVALUATE, 3) in clinic.asked for clinic in clinics)


@pytest.mark.parametrize(("cohort", "size"), [(0.01, 1), (0.34, 1), (0.5, 2), (0.99, 3), (1.0, 3)])
def test_a_cohort_has_at_least_one_clinic(tmp_path: Path, cohort: float, size: int) -> None:
    study = study_of(rounds=1, cohort=cohort)
    (names,) = cohorts(tmp_path / "run", study, "abc")
    assert len(names) == size


def test_the_weights_are_numbers_of_images(tmp_path: Path) -> None:
    """A clinic that trains on a part of its images weighs as that part."""
    study = study_of(2, rounds=1)
    clinics = clinics_of(study, "ab")
    clinics[0].tamper = {messages.TRAIN: metrics(weight=3, loss=9.0)}
    run = Run(tmp_path / "run", study, grid_of(clinics))
    mean = WeightedMean(fixed_point_for(INITIAL, 33))
    mean.add(clinics[0].trained(INITIAL, 1), 3)
    mean.add(clinics[1].trained(INITIAL, 1), 30)
    assert_equal(run.conduct().models[""], mean.mean())
    assert run.events("round")[0]["train_loss"] == pytest.approx((3 * 9.0 + 30 * 1.0) / 33)


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_compressed_updates_are_added_to_the_model_that_was_sent(tmp_path: Path, kind: str) -> None:
    exact, told = study_of(2, rounds=2), study_of(2, rounds=2, compression=kind)
    expected = Run(tmp_path / "exact", exact, grid_of(clinics_of(exact, "ab"))).conduct().models[""]
    got = Run(tmp_path / "run", told, grid_of(clinics_of(told, "ab"))).conduct().models[""]
    for name, tensor in expected.items():
        change = np.abs(tensor - INITIAL[name]).max()
        assert 0 < np.abs(got[name] - tensor).max() <= 2 * change / (127 if kind == "int8" else 1024)


def test_in_a_study_with_compression_an_update_in_full_is_refused_and_the_other_way_round(tmp_path: Path) -> None:
    plain, told = study_of(2, rounds=1), study_of(2, rounds=1, compression="int8")
    for study, other, reason in [
        (told, plain, "tensor w came as float32 of shape (3, 4), not as 16 bytes of int8"),
        (plain, told, "tensor w is uint8, not float32"),
    ]:
        clinics = clinics_of(study, "ab")
        odd = clinics_of(other, "b")[0]
        clinics[1].tamper = {messages.TRAIN: lambda content, odd=odd: _tensors_of(odd, content)}
        with pytest.raises(QuorumError) as caught:
            Run(tmp_path / other.federation.compression, study, grid_of(clinics)).conduct()
        assert reason in str(caught.value)


def _tensors_of(clinic: FakeClinic, content: RecordDict) -> RecordDict:
    """An answer, with the tensors as a clinic of another study has them."""
    asked = RecordDict({"request": content.config_records["request"], "tensors": arrays(INITIAL)})
    content["tensors"] = clinic.train(asked).array_records["tensors"]
    return content
