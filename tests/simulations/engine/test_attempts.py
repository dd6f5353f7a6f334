"""How often a task is asked again, and what is told of it."""

from collections.abc import Callable

import pytest

from melfed.simulations.engine.attempts import ATTEMPTS, EndedError, LostError, NobodyError, asked_again, out_of_memory


def failing(*errors: Exception) -> Callable[[], int]:
    """A task that raises each of these in turn, and then returns how often it was asked."""
    left, asked = list(errors), 0

    def ask() -> int:
        nonlocal asked
        asked += 1
        if left:
            raise left.pop(0)
        return asked

    return ask


@pytest.mark.parametrize("deaths", range(ATTEMPTS))
def test_a_task_whose_process_dies_is_asked_again(deaths: int) -> None:
    told: list[tuple[int, str]] = []
    answer = asked_again(failing(*[LostError()] * deaths), 5, lambda *what: told.append(what))
    assert answer == deaths + 1
    assert told == [(5, "its process was ended (killed, or out of memory); asked again")] * deaths


def test_after_three_deaths_it_is_lost() -> None:
    told: list[int] = []
    ask = failing(*[LostError()] * 3)
    with pytest.raises(LostError):
        asked_again(ask, 5, lambda partition, _: told.append(partition))
    assert told == [5, 5], "the third time nobody asks again"
    assert ask() == 4


@pytest.mark.parametrize("error", [ValueError("no"), NobodyError(), EndedError()])
def test_what_is_no_death_is_not_asked_again(error: Exception) -> None:
    told: list[str] = []
    ask = failing(LostError(), error)
    with pytest.raises(type(error)):
        asked_again(ask, 0, lambda _, reason: told.append(reason))
    assert len(told) == 1
    assert ask() == 3


def test_want_of_memory_is_told_with_what_helps() -> None:
    line = "MemoryError: Unable to allocate 3 GiB"
    assert out_of_memory(line) == (
        f"out of memory ({line}); allow the process more, or ask for more resources.cpus, so that fewer run"
    )
    assert out_of_memory("MemoryError: ").startswith("out of memory (MemoryError: ); allow")
    assert out_of_memory("ValueError: MemoryError") == "ValueError: MemoryError"
