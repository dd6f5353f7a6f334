"""What is read from a clinic's messages, and which statistic is found to tell two worlds apart."""

import math

import numpy as np
import pytest

from melfed.client.rpc import worker_pb2 as pb
from melfed.simulations.audit.door import Seen
from melfed.simulations.audit.statistics import ABSENT, Observation, choose, observe

TRIALS = 10


def best(without: list[Observation], including: list[Observation]) -> str:
    return choose(without, including)[0].name


def noise(seed: int, **told: float | str) -> list[Observation]:
    """Trials in which something never differs and something else is noise."""
    random = np.random.default_rng(seed)
    return [{"same": 3.0, "text": "x", "noise": random.normal(), **told} for _ in range(TRIALS)]


@pytest.mark.parametrize(
    ("out", "inside"),
    [
        ({"it": 1936.0}, {"it": 0.0}),
        ({"it": 0.0}, {"it": 1.0}),
        ({"it": "Answer"}, {"it": "DataError"}),
        ({}, {"it": 5.0}),
        ({"it": "told"}, {}),
        ({"it": math.inf}, {"it": "NaN"}),
    ],
)
def test_what_differs_always_is_found(out: dict[str, float | str], inside: dict[str, float | str]) -> None:
    worlds = noise(1, **out), noise(2, **inside)
    statistic = choose(*worlds)[0]
    assert (statistic.name, statistic.right, statistic.gap) == ("it", 1.0, math.inf)
    for included, trials in zip((False, True), (noise(3, **out), noise(4, **inside)), strict=True):
        assert all(statistic.guess(seen) == included for seen in trials)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_large_shift_is_found_and_guessed_by(sign: int) -> None:
    random = np.random.default_rng(5)
    worlds = [
        [{**seen, "it": float(random.normal(sign * mean))} for seen in noise(seed)]
        for seed, mean in ((1, 0.0), (2, 6.0))
    ]
    statistic = choose(*worlds)[0]
    assert statistic.name == "it"
    assert 4 < statistic.gap < 10
    assert statistic.guess({"it": sign * 6.0})
    assert not statistic.guess({"it": 0.0})


def test_rare_things_count_for_what_they_tell() -> None:
    """A kind of answer that one world alone gives, but seldom, tells less than one that it mostly gives."""
    out = [{"seldom": "a", "mostly": "a"} for _ in range(TRIALS)]
    inside = [{"seldom": "b" if i < 2 else "a", "mostly": "b" if i < 8 else "a"} for i in range(TRIALS)]
    statistic = choose(out, inside)[0]
    assert statistic.name == "mostly"
    assert statistic.right == 0.9
    assert statistic.guess({"mostly": "b"})
    assert not statistic.guess({"mostly": "never seen before"})
    assert not statistic.guess({})


def test_nothing_is_made_of_nothing() -> None:
    chosen = choose([{"same": 1.0}] * TRIALS, [{"same": 1.0}] * TRIALS)
    assert [(statistic.name, statistic.right) for statistic in chosen] == [("same", 0.5)]
    assert chosen[0].gap < 0.1


def test_plain_words_come_before_numbers_that_tell_as_much() -> None:
    assert best([{"a": 1.0, "describe 1: kind": "x"}], [{"a": 2.0, "describe 1: kind": "y"}]) == "describe 1: kind"


def answer(weight: int, tensors: dict[str, list[float]], **fields: object) -> Seen:
    arrays = {f"tensors/{name}": np.array(values, np.float32) for name, values in tensors.items()}
    return Seen(pb.Answer(clinic="here", weight=weight, **fields), arrays, 17)  # type: ignore[arg-type]


def test_everything_in_an_answer_is_seen() -> None:
    sent = {"w": np.array([1.0, 1.0, 1.0], np.float32)}
    replies = {
        "train 1": answer(4, {"w": [0.0, 0.5, math.nan]}, loss=0.25),
        "train 2": answer(4, {"w": [1.0, 1.0, 1.0]}),
    }
    seen = observe(replies, dict.fromkeys(replies, sent), {"w": np.array([1.0, 0.0, 0.0])})
    assert seen["train 1: kind"] == "Answer"
    assert seen["train 1: fields"] == "clinic loss tensors/w weight"
    assert seen["train 2: fields"] == "clinic tensors/w weight"
    assert (seen["train 1: bytes"], seen["train 1: weight"], seen["train 1: loss"]) == (17.0, 4.0, 0.25)
    assert seen["train 1: exact zeros of tensors/w"] == 1.0
    assert seen["train 1: numbers that are none of tensors/w"] == 1.0
    # Sent less got, times the weight: 4 · (1 + 0.5).
    assert seen["train 1: sum of tensors/w"] == seen["shift of the sum"] == 6.0
    assert seen["largest sum of tensors/w of all train answers"] == 6.0
    assert seen["smallest sum of tensors/w of all train answers"] == 0.0


def test_the_dot_product_is_over_all_rounds() -> None:
    sent = {"w": np.zeros(2, np.float32)}
    replies = {f"train {i}": answer(2, {"w": [-1.0, 7.0]}) for i in (1, 2)}
    seen = observe(replies, dict.fromkeys(replies, sent), {"w": np.array([1.0, 0.0])})
    assert seen["dot product with what the patient would add"] == 4.0


def test_failures_and_repeats_are_seen() -> None:
    failure = Seen(pb.Failure(kind="DataError", reason="too few", clinic="here"), {}, 5)
    other = Seen(pb.Failure(kind="DataError", reason="too many", clinic="here"), {}, 5)
    seen = observe({"describe 1": failure, "describe 2": failure, "describe 3": other}, {})
    assert seen["describe 1: kind"] == "DataError"
    assert seen["describe 1: reason"] == "too few"
    repeated = [seen[f"describe {i}: repeats"] for i in (1, 2, 3)]
    assert repeated == ["describe 1", "describe 1", "describe 3"]
    assert seen.get("describe 1: digest", ABSENT) == ABSENT


def test_hashes_over_the_time_of_day_are_no_statistic() -> None:
    seen = observe({"train 1": answer(1, {}, account=pb.Account(epsilon=1.0, head="ab" * 32))}, {})
    assert seen["train 1: account.epsilon"] == 1.0
    assert "train 1: account.head" not in seen
    assert "account.head" in str(seen["train 1: fields"])
