"""Where a deployed round's time goes, from logs as the processes write them."""

import importlib
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melfed.client.rpc.remote import RemoteWorker
from melfed.simulations.benchmarks.round_timing import Parts, clinic_parts, round_seconds, split, timings
from tests.client.fake_worker import STUDY, TENSORS
from tests.client.served import served

LOG = """\
2026-11-23T07:34:36.540Z INFO melfed.client.worker.service: timing worker run=7 round=2 kind=train training=564
2026-11-23T07:34:36.640Z INFO melfed.client.flower.superexec: timing messenger run=7 round=2 kind=train start=4 input=78 work=744 \
output=82
2026-11-23T07:34:36.765Z INFO melfed.client.flower.relay: reply sent in Flower run 7
2026-11-23T07:34:36.965Z INFO melfed.client.flower.relay: timing supernode run=7 round=2 kind=train request=49 answer=988 reply=51
2026-11-23T07:34:39.965Z INFO melfed.client.flower.relay: timing supernode run=7 round=3 kind=evaluate request=1 answer=2 reply=3
2026-11-23T07:34:40.000Z INFO melfed.client.flower.relay: timing supernode run=7 round=3 kind=train request=
"""  # noqa: E501 (as a log has it)
ANSWER = {"id": 1005, "kind": "train", "flower_run": 7, "round": 2, "seconds": 0.647}


def test_a_clinics_round_is_taken_apart_and_nothing_is_lost() -> None:
    parts = clinic_parts(timings(LOG), [ANSWER])[2]
    assert (parts.training, parts.worker) == pytest.approx((0.564, 0.083))
    assert (parts.messenger, parts.transport) == pytest.approx((0.341, 0.1))
    assert parts.total == pytest.approx(0.049 + 0.988 + 0.051)
    assert parts.overhead == pytest.approx(parts.total - 0.564)


@pytest.mark.parametrize(
    "audit",
    [
        [],
        [{**ANSWER, "kind": "evaluate"}],
        [{**ANSWER, "flower_run": 8}],
        [{**ANSWER, "id": 1008}],
        [{**ANSWER, "round": 3}],  # its line was cut short
        [ANSWER, ANSWER],  # asked twice: nobody knows which of the answers counted
    ],
)
def test_what_not_all_logs_know_is_left_out(audit: list[dict[str, Any]]) -> None:
    assert clinic_parts(timings(LOG), audit) == {}


def test_a_round_that_was_carried_twice_is_left_out() -> None:
    assert clinic_parts(timings(LOG + LOG), [ANSWER]) == {}


def test_rounds_last_from_end_to_end() -> None:
    def end(number: int, second: int, run: str = "a") -> dict[str, Any]:
        return {"id": 2006, "run": run, "round": number, "time": f"2026-11-23T07:00:{second:02}.500+00:00"}

    other = {"id": 2005, "run": "a", "round": 3, "time": "2026-11-23T07:00:59+00:00"}
    audit = [end(1, 10), end(2, 13), other, end(2, 50, "b"), end(4, 20), end(5, 21)]
    assert round_seconds(audit, "a") == pytest.approx({2: 3.0, 5: 1.0})


def test_the_slowest_clinic_makes_the_round() -> None:
    quick, slow = Parts(0.1, 0.1, 0.1, 0.1), Parts(1.0, 0.2, 0.3, 0.4)
    result = split({1: 60.0, 2: 3.0}, {"a": {1: slow, 2: slow}, "b": {1: quick, 2: quick}})
    assert result["rounds"] == 1
    assert (result["training"], result["polling"]) == pytest.approx((1.0, 1.1))
    assert result["second_round_overhead"] == pytest.approx(0.9)


def test_without_a_round_that_all_know_there_are_no_figures() -> None:
    parts = Parts(1, 1, 1, 1)
    with pytest.raises(ValueError, match="no round"):
        split({1: 1.0, 2: 1.0}, {"a": {1: parts, 2: parts}, "b": {1: parts}})


@given(
    st.lists(st.lists(st.tuples(*[st.floats(0, 100)] * 4), min_size=3, max_size=3), min_size=1, max_size=1).flatmap(
        lambda found: st.tuples(st.just(found[0]), st.floats(0, 100))
    )
)
def test_the_parts_of_one_round_add_up_to_it(found: tuple[list[tuple[float, ...]], float]) -> None:
    each, polling = found
    clinics = {str(index): {2: Parts(*parts)} for index, parts in enumerate(each)}
    whole = max(sum(parts) for parts in each) + polling
    result = split({2: whole}, clinics)
    total = sum(result[name] for name in ("training", "worker", "messenger", "transport", "polling"))
    assert total == pytest.approx(whole)
    assert result["polling"] == pytest.approx(polling, abs=1e-9)


def test_the_supernodes_line_is_understood() -> None:
    carrier = importlib.import_module("melfed.client.flower.relay")
    message = SimpleNamespace(metadata=SimpleNamespace(run_id=2**63, group_id="12", message_type="train"))
    line = carrier.timing(message, carrier.Moments(10.0, 10.25, 12.0, 12.5))
    (timing,) = timings(f"2026-11-23T07:34:36.965Z INFO melfed.client.flower.relay: {line}")
    assert (timing.who, timing.run, timing.round, timing.kind) == ("supernode", 2**63, 12, "train")
    assert timing.steps == {"request": 0.25, "answer": 1.75, "reply": 0.5}


def test_the_workers_line_is_understood(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "melfed.client.worker.service"), served(tmp_path):
        RemoteWorker(tmp_path / "w.sock", STUDY.model_dump_json(), 20, 9).train(TENSORS, 1, STUDY.digest, "run")
    (timing,) = timings(f"2026-11-23T07:34:36.640Z INFO melfed.client.worker.service: {caplog.messages[0]}")
    assert (timing.who, timing.run, timing.round, timing.kind) == ("worker", 9, 1, "train")
    assert timing.steps.keys() == {"training"}
