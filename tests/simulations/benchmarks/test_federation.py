"""The cost of federation: what is printed of what was measured."""

import json

import pytest
import typer
from typer.testing import CliRunner

from melfed.server.federation.observer import Observer
from melfed.simulations.benchmarks import federation

RESULT = {
    "cores": 2,
    "federated_seconds": 12.0,
    "central_seconds": 10.0,
    "ratio": 1.2,
    "engine_start_and_end_seconds": 4.0,
    "bytes_a_round": 1000,
    "bytes_ratio": 1.03,
}


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    app = typer.Typer()
    app.command()(federation.main)
    monkeypatch.setattr(federation, "measure", lambda repeats: {**RESULT, "cores": repeats})
    return app


def test_each_ratio_is_printed_beside_what_is_to_be_reached(app: typer.Typer) -> None:
    out = CliRunner().invoke(app, ["--repeats", "3"], catch_exceptions=False).output
    assert "ratio:                   1.20  (to reach: at most 1.25)" in out
    assert "bytes a round / tensors: 1.0300  (to reach: at most 1.05)" in out
    assert "on 3 cores" in out


def test_json_has_all_figures(app: typer.Typer) -> None:
    out = CliRunner().invoke(app, ["--json"], catch_exceptions=False).output
    assert json.loads(out) == RESULT


def test_the_quiet_observer_takes_every_call() -> None:
    quiet: Observer = federation.Quiet()
    quiet.round_started(1, ["a"])
    quiet.replied("a", "spent", True)
    quiet.waiting()
