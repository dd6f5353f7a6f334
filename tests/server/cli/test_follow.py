"""Following a run: what is said of the server itself. The rest is in `test_run_commands`."""

from pathlib import Path

from melfed.common.locks import only_one
from melfed.server.cli.follow import Presence


def test_the_end_and_the_return_of_the_server_are_told_once_each(tmp_path: Path) -> None:
    lock = tmp_path / "daemon.lock"
    told: list[bool] = []
    presence = Presence(lock, told.append)
    with only_one(lock, "the server is run"):
        presence.look()
        assert told == []
    presence.look()
    presence.look()
    assert told == [False]
    with only_one(lock, "the server is run"):
        presence.look()
        presence.look()
    assert told == [False, True]
