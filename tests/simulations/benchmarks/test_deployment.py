"""The deployment's figures: what this machine is, and a benchmark without nginx that says so."""

import os

import pytest
import typer
from typer.testing import CliRunner

from melfed.simulations.benchmarks import deployment


def test_the_machine_is_described_in_numbers() -> None:
    found = deployment.machine()
    assert found["cores"] == os.cpu_count()
    assert found["load"] >= 0
    assert found["processor"]
    assert found["python"].count(".") == 2


def test_without_nginx_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()
    app.command()(deployment.main)
    monkeypatch.setattr(deployment, "has_nginx", lambda: False)
    monkeypatch.delattr(deployment, "measure")
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 2
    assert "nginx is not installed" in done.output
