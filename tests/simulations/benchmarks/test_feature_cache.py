"""The benchmark of the feature cache runs, and both of its ways learn the same."""

import json

import pytest
from typer.testing import CliRunner

from melfed.common.model.backbones import BACKBONES
from melfed.simulations.benchmarks import feature_cache as cache


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("cache")
    app = cache.typer.Typer()
    app.command()(cache.main)
    arguments = ["--images", "40", "--size", "32", "--backbone", "simple_cnn", "--repeats", "1", "--json"]
    shown = CliRunner().invoke(app, arguments, env={"MELFED_CACHE": str(folder)}, catch_exceptions=False)
    return json.loads(shown.stdout)


def test_both_ways_learn_the_same(figures: dict[str, object]) -> None:
    assert figures["trained"].keys() == {"head", "last_block"}
    assert all(row["difference"] < 1e-3 for row in figures["trained"].values())


def test_the_figures_are_told(figures: dict[str, object]) -> None:
    head = figures["trained"]["head"]
    assert head["ratio"] == pytest.approx(head["network_seconds"] / head["cached_seconds"])
    features = BACKBONES["simple_cnn"].features
    assert head["bytes"] == 64 + figures["images"] * (44 + 4 * features)
    assert head["filling_seconds"] > 0
