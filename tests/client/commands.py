"""Calling `melfed-client` in this process, for the tests of its commands."""

import sys
from typing import NamedTuple

import pytest

import melfed.client.cli.main


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Command:
    """Runs the command; make one in a fixture."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Done:
        self.monkeypatch.setattr(sys, "argv", ["melfed-client", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            melfed.client.cli.main.main()
        captured = self.capsys.readouterr()
        code = caught.value.code
        return Done(code if isinstance(code, int) else 0, captured.out, captured.err)
