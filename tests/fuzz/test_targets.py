"""A bounded number of damaged inputs for each reader of foreign bytes; `python -m tests.fuzz` tries any number."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from melfed.common.errors import DataError
from tests.fuzz.check import CaseError, check
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import TARGETS, Target


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_inputs_are_read_or_refused_in_one_line(target: Target, tmp_path: Path) -> None:
    tally = check(target, tmp_path, target.cases)
    assert tally.read + tally.refused == target.cases
    assert tally.refused > target.cases / 10, "the changes reach the reader"
    assert tally.read, "and the valid ones are valid"


def test_every_reader_that_takes_foreign_bytes_is_a_target() -> None:
    wanted = {"images", "tables", "updates", "replies", "studies", "policies", "ledgers", "checkpoints", "runs", "logs"}
    assert {target.name for target in TARGETS} >= wanted


def test_a_case_follows_from_its_name_and_number() -> None:
    for target in TARGETS:
        if target.name != "replies":  # whose records compare by identity
            assert target.make(Random("a")) == target.make(Random("a"))
    assert mutated(b"valid content", Random(1)) != mutated(b"valid content", Random(2))


@pytest.mark.parametrize("wrong", ["traceback", "two lines"])
def test_what_is_wrong_is_told_with_the_command_that_gives_it_again(tmp_path: Path, wrong: str) -> None:
    class TwoLinesError(DataError):
        def __str__(self) -> str:
            return "two\nlines"

    def read(made: bytes, _folder: Path) -> None:
        if made == b"3":
            raise KeyError("round") if wrong == "traceback" else TwoLinesError("")

    numbers = iter(range(10))
    target = Target("own", 10, lambda _: str(next(numbers)).encode(), read)
    with pytest.raises(KeyError if wrong == "traceback" else CaseError) as caught:
        check(target, tmp_path, 10)
    assert caught.value.__notes__ == ["python -m tests.fuzz --target own --first 3 --cases 1"]


def test_the_command_tries_as_many_as_it_is_told() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--target", "studies", "--cases", "20"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240, cwd=root)
    assert done.stdout.startswith("studies: 20 cases, ")
