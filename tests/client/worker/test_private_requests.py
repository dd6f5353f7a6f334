"""A private study at a clinic: what is asked twice is paid for once, and what may not be asked gets nothing."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from melfed.client.config.policy import ClinicPolicy
from melfed.client.data.clinic_data import ClinicData
from melfed.client.ledger.ledger import Ledger, Reservation
from melfed.client.privacy.accounting import epsilon
from melfed.client.privacy.plan import plan_of
from melfed.common.errors import DeclinedError, LedgerError, StudyError
from melfed.common.model.classifier import trainable_tensors
from melfed.common.tensors import Tensors
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.private_clinic import BOUND, DELTA, STUDY, charges, other_than, rows, train, worker_of
from tests.client.small import small_model, small_study


@pytest.fixture(scope="module")
def north(phantom_clinics: VirtualClinics) -> ClinicData:
    return phantom_clinics.clinics[0]


@pytest.fixture
def start() -> Tensors:
    return trainable_tensors(small_model(STUDY))


# Asking again.


def test_the_same_request_has_the_same_reply_at_no_cost(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    first = train(worker_of(tmp_path, north), start, 2)
    before = (tmp_path / "north.jsonl").read_bytes()
    again = train(worker_of(tmp_path, north), start, 2)
    assert (tmp_path / "north.jsonl").read_bytes() == before
    assert charges(tmp_path) == [("counts", 0), ("evaluation", 1), ("training", 2)]
    for name, tensor in first.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], tensor)
    assert first.validation is not None
    assert again.validation is not None
    assert again.validation.to_lists() == first.validation.to_lists()
    assert again.account == first.account
    assert again.weight == first.weight


def test_the_same_evaluation_has_the_same_noise_at_no_cost(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    first, again = (worker_of(tmp_path, north).evaluate(start, STUDY.digest, "run") for _ in range(2))
    assert {part: h.to_lists() for part, h in again.items()} == {part: h.to_lists() for part, h in first.items()}
    assert charges(tmp_path) == [("evaluation", 2)]


def test_another_model_costs_again(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    worker = worker_of(tmp_path, north)
    first, second = train(worker, start), train(worker, other_than(start))
    assert charges(tmp_path) == [("counts", 0), ("training", 1), ("training", 1)]
    assert first.account is not None
    assert second.account is not None
    assert second.account.epsilon == pytest.approx(
        epsilon([plan_of(STUDY).counts, *[plan_of(STUDY).training] * 2], DELTA)
    )
    assert second.account.epsilon > first.account.epsilon


def test_a_worker_that_dies_before_its_reply_leaves_is_not_paid_twice(
    north: ClinicData, start: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DiedError(BaseException):
        pass

    mark = Ledger.mark

    def dying(self: Ledger, reservation: Reservation, status: str, values: object = None) -> None:
        if (status, reservation.charge.purpose) == ("released", "training"):
            raise DiedError
        mark(self, reservation, status, values)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "mark", dying)
        with pytest.raises(DiedError):
            train(worker_of(tmp_path, north), start)
    assert [row.status for row in rows(tmp_path)] == ["reserved", "spent", "released", "reserved", "spent"]
    kept = train(worker_of(tmp_path, north), start)
    assert [row.status for row in rows(tmp_path)] == ["reserved", "spent", "released"] * 2
    again = train(worker_of(tmp_path, north), start)
    assert all((again.tensors[name] == tensor).all() for name, tensor in kept.tensors.items())
    # From now on it has left: another model is a second charge.
    train(worker_of(tmp_path, north), other_than(start))
    assert charges(tmp_path) == [("counts", 0), ("training", 1), ("training", 1)]


# When nothing leaves.


@pytest.mark.parametrize("ask", ["describe", "train", "evaluate"])
def test_a_policy_is_asked_before_anything_else(
    north: ClinicData, start: Tensors, tmp_path: Path, ask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClinicData, "load", lambda *_: pytest.fail("images were opened"))
    worker = worker_of(tmp_path, north, policy=ClinicPolicy(epsilon=1.0, studies="any", clipping_norm=0.1))
    with pytest.raises(DeclinedError, match=r"its clipping norm C is 1, this clinic allows at most 0\.1"):
        {
            "describe": worker.describe,
            "train": lambda: train(worker, start),
            "evaluate": lambda: worker.evaluate(start, STUDY.digest, "run"),
        }[ask]()
    assert not list(tmp_path.iterdir())


def test_tensors_that_may_not_leave_are_not_computed(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    policy = ClinicPolicy(epsilon=9.0, studies="any", tensors=("head.*",))
    with pytest.raises(DeclinedError, match=r"10 tensors may not leave this clinic, 'trunk\.features"):
        train(worker_of(tmp_path, north, policy=policy), start)
    assert rows(tmp_path) == ()


def test_a_clinic_that_allows_it_trains_without_privacy_and_without_a_ledger(
    north: ClinicData, start: Tensors, tmp_path: Path
) -> None:
    study, policy = small_study(), ClinicPolicy(epsilon=1.0, studies="any", non_private=True)
    reply = train(worker_of(tmp_path, north, study, policy), start, 2)
    assert reply.account is None
    assert reply.loss is not None
    assert not list(tmp_path.iterdir())


def test_a_ledger_of_other_data_stops_training(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    train(worker_of(tmp_path, north), start)
    other = worker_of(tmp_path, dataclasses.replace(north, train=north.train[1:]))
    for ask in (other.describe, lambda: train(other, start), lambda: other.evaluate(start, STUDY.digest, "run")):
        with pytest.raises(LedgerError, match="is the ledger of data"):
            ask()
    assert charges(tmp_path) == [("counts", 0), ("training", 1)]


def test_a_damaged_ledger_stops_training_and_is_never_begun_anew(
    north: ClinicData, start: Tensors, tmp_path: Path
) -> None:
    train(worker_of(tmp_path, north), start)
    path = tmp_path / "north.jsonl"
    damaged = path.read_bytes().replace(b'"round":1', b'"round":7', 1)
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    worker = worker_of(tmp_path, north)
    for ask in (worker.describe, lambda: train(worker, start), worker.account):
        with pytest.raises(LedgerError):
            ask()
    assert path.read_bytes() == damaged


def test_tensors_that_do_not_fit_and_other_studies_cost_nothing(
    north: ClinicData, start: Tensors, tmp_path: Path
) -> None:
    worker = worker_of(tmp_path, north)
    with pytest.raises(StudyError, match="holds study"):
        worker.train(start, 2, BOUND.digest, "run")
    with pytest.raises(Exception, match=r"lacks head\.bias"):
        train(worker, {name: tensor for name, tensor in start.items() if name != "head.bias"}, 2)
    assert rows(tmp_path) == ()
