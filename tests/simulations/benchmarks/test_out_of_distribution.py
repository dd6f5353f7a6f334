"""Shares of pictures that are called unlike, by statistics of all sources but one."""

from pathlib import Path

import numpy as np
import pytest

from melfed.common.errors import RunError
from melfed.simulations.benchmarks import out_of_distribution
from melfed.simulations.benchmarks.out_of_distribution import by_source, measure, photographs, rendered, unlike, usable
from melfed.simulations.phantom.dataset import PhantomSpec, write_phantom
from tests.common.export.models import network, pictures, statistics


def test_images_are_taken_by_source_at_an_even_step(tmp_path: Path) -> None:
    data = write_phantom(tmp_path / "data", PhantomSpec(("a", "b"), 40, size=32))
    found = by_source(data, 20, 32)
    assert sorted(found) == ["phantom_a", "phantom_b"]
    assert sum(len(images) for images in found.values()) == 20
    assert found["phantom_a"][0].shape == (32, 32, 3)


def test_what_is_no_picture_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    assert usable([tmp_path / "a.jpg"], 32) == []


def test_a_source_left_out_is_known_where_it_is_of_their_kind_and_noise_is_not() -> None:
    known = {name: list(pictures(90, seed=seed)) for seed, name in enumerate("abc")}
    noise = list(np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8))
    rows = measure(network(), known, {"noise": noise, "none": []}, 0.1)
    assert [row["left_out"] for row in rows] == ["a", "b", "c"]
    for row in rows:
        assert row["images"] == 180
        assert row["unlike"].keys() == {row["left_out"], "noise"}
        assert row["unlike"][row["left_out"]] < 0.3
        assert row["unlike"]["noise"] == 1


def test_of_none_there_is_no_share() -> None:
    seen = statistics(network(), pictures(60))
    assert unlike(seen, np.zeros((0, seen.features), np.float32)) is None


def test_lesions_are_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out_of_distribution, "RENDERED", 40)
    assert len(rendered(32)) == 40


def test_photographs_come_with_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    assert len(photographs(32)) > 10
    monkeypatch.setitem(__import__("sys").modules, "skimage", None)
    with pytest.raises(RunError, match="scikit-image is not installed"):
        photographs(32)
