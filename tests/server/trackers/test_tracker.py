"""What trackers share: a package that is missing, and errors in one line."""

import pytest

from melfed.common.errors import ServiceError, StudyError
from melfed.server.config import ServerFile
from melfed.server.trackers import TRACKERS, trackers_of
from melfed.server.trackers.tracker import require, told
from tests.server.trackers.told import Listener


def test_commands_and_servers_know_the_same_trackers() -> None:
    assert set(TRACKERS) == {"tensorboard", "mlflow", "wandb"}
    for name in TRACKERS:
        assert ServerFile.model_validate_json(f'{{"trackers": ["{name}"]}}').trackers == (name,)


def test_a_tracker_of_ones_own_stands_for_itself() -> None:
    own = Listener()
    assert trackers_of([own]) == [own]
    with pytest.raises(StudyError, match="no tracker 'excel'; there are mlflow, tensorboard, wandb"):
        trackers_of(["excel"])


def test_a_package_that_is_missing_is_one_line() -> None:
    require("json", "json")
    with pytest.raises(
        ServiceError, match=r"tracker paper: no_such_package is not installed: pip install 'melfed\[paper\]'"
    ):
        require("no_such_package", "paper")


def test_what_a_package_raises_is_one_line() -> None:
    with pytest.raises(ServiceError, match=r"^tracker paper: out of paper$"), told("paper", ValueError):
        raise ValueError("out of paper\nat line 3")
    with pytest.raises(KeyError), told("paper", ValueError):
        raise KeyError
