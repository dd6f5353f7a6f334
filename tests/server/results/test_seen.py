"""Statistics that go with a run's model: of public images, or of noised moments, and never of another network."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from melfed.common.data.images.decoder import decode
from melfed.common.errors import DataError, RunError
from melfed.common.export.out_of_distribution import of_moments
from melfed.common.moments.noisy_moments import pooled
from melfed.server.results.evaluate import predict, save_model
from melfed.server.results.facts import facts_by
from melfed.server.results.features import features_of
from melfed.server.results.seen import NAME, ShownImages, seen_of, write_seen, write_shown
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.releases import Releases
from tests.common.export.models import pictures
from tests.common.moments.test_solvers import moments_of, units
from tests.server.fake_run import FakeRun
from tests.server.finished import DATA, SIZE, finish, network, study_with
from tests.server.results.test_solved import STUDY, release_of


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("public")
    for number, picture in enumerate(pictures(90)):
        Image.fromarray(picture).save(folder / f"{number:02}.png")
    return folder


def test_they_are_of_the_images_and_go_with_every_score(tmp_path: Path, public: Path) -> None:
    folder, model = finish(tmp_path / "run", study_with())
    assert seen_of(folder) is None
    steps: list[tuple[int, int]] = []
    seen = write_seen(folder, model, public, 0.1, lambda done, n: steps.append((done, n)))
    assert steps[-1] == (90, 90)
    assert seen_of(folder) == seen
    assert (seen.images, seen.chosen_on) == (60, "on 30 public images held out")
    file = public / "07.png"
    (found,) = predict(folder.path, [file])
    assert found.unlike == pytest.approx(float(seen.scores(features_of(model, [decode(file, SIZE)]))[0]))


def test_neighbours_by_name_are_on_one_side(tmp_path: Path, public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = finish(tmp_path / "run", study_with())
    sides: list[list[bool]] = []
    monkeypatch.setattr(
        "melfed.server.results.seen.of_public",
        lambda _features, out, _rate: sides.append(out) or (_ for _ in ()).throw(DataError("x")),
    )
    with pytest.raises(DataError):
        write_seen(folder, model, public)
    blocks = np.array(sides[0]).reshape(30, 3)
    assert (blocks.all(1) | ~blocks.any(1)).all()
    assert blocks.mean() == pytest.approx(1 / 3)


def test_another_network_has_other_statistics_and_another_head_the_same(tmp_path: Path, public: Path) -> None:
    folder, model = finish(tmp_path / "run", study_with())
    seen = write_seen(folder, model, public, 0.1)
    model.head.weight.data.add_(1)
    save_model(folder.model, model, folder.study(), DATA)
    assert seen_of(folder) == seen
    other = network(folder.study())
    next(other.trunk.parameters()).data.add_(1)
    save_model(folder.model, other, folder.study(), DATA)
    with pytest.raises(RunError, match=r"seen\.json: of another network than the run's; make it anew"):
        seen_of(folder)


def test_a_clinics_own_model_has_them_where_only_its_head_is_another(tmp_path: Path, public: Path) -> None:
    folder, model = finish(tmp_path / "run", study_with())
    model.head.weight.data.add_(1)
    save_model(folder.path / "model-north.safetensors", model, folder.study(), DATA)
    assert seen_of(folder, "north") is None, "there are none"
    seen = write_seen(folder, network(folder.study()), public, 0.1)
    other = network(folder.study())
    next(other.trunk.parameters()).data.add_(1)
    save_model(folder.path / "model-south.safetensors", other, folder.study(), DATA)
    assert seen_of(folder, "north") == seen
    assert seen_of(folder, "south") is None
    file = public / "07.png"
    north, south = (predict(folder.path, [file], clinic)[0] for clinic in ("north", "south"))
    assert (north.unlike is None, south.unlike is None) == (False, True)
    assert not north.calibrated
    assert facts_of_clinics(folder) == (seen, None)


def facts_of_clinics(folder: RunFolder) -> tuple[object, object]:
    """What goes with each clinic's own model, of a run whose summary says nothing of that."""
    summary = FakeRun().write(folder.path.parent / "other").summary()
    north, south = (facts_by(folder, summary, clinic) for clinic in ("north", "south"))
    return north.seen, south.seen


def test_those_of_a_runs_own_rendered_images_have_their_threshold_of_the_validation_part(tmp_path: Path) -> None:
    folder, model = finish(tmp_path / "run", study_with())
    every = list(pictures(90, SIZE, SIZE))
    seen = write_shown(folder, model, ShownImages(every[:60], every[60:]))
    assert seen is not None
    assert seen_of(folder) == seen
    assert (seen.origin, seen.images, seen.chosen_on) == ("public", 60, "on 30 public images held out")
    # Of 30 the largest: with the next one they are 31, of which 5 % are 1.
    assert max(seen.scores(features_of(model, every[60:]))) == pytest.approx(1, abs=1e-3)


def test_where_the_validation_part_is_too_small_some_others_are_held_out(tmp_path: Path) -> None:
    folder, model = finish(tmp_path / "run", study_with())
    every = list(pictures(90, SIZE, SIZE))
    seen = write_shown(folder, model, ShownImages(every, every[:18]))
    assert seen is not None
    assert (seen.images, seen.chosen_on) == (60, "on 30 public images held out")


@pytest.mark.parametrize(("learnt", "held_out"), [(0, 0), (30, 0), (18, 40), (0, 40)])
def test_of_too_few_images_there_are_none(tmp_path: Path, learnt: int, held_out: int) -> None:
    folder, model = finish(tmp_path / "run", study_with())
    every = list(pictures(70, SIZE, SIZE))
    assert write_shown(folder, model, ShownImages(every[:learnt], every[30 : 30 + held_out])) is None
    assert not (folder.path / NAME).exists()


def test_of_a_model_that_gives_no_numbers_there_are_none(tmp_path: Path) -> None:
    folder, model = finish(tmp_path / "run", study_with())
    next(model.trunk.parameters()).data.fill_(float("nan"))
    every = list(pictures(60, SIZE, SIZE))
    assert write_shown(folder, model, ShownImages(every[:30], every[30:])) is None
    assert not (folder.path / NAME).exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff"])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    folder, _ = finish(tmp_path / "run", study_with())
    (folder.path / NAME).write_bytes(content)
    with pytest.raises(RunError, match=r"seen\.json: damaged; make it anew"):
        seen_of(folder)


def test_a_model_that_needs_more_than_a_picture_has_none(tmp_path: Path, public: Path) -> None:
    folder, model = finish(tmp_path / "run", study_with(metadata=True))
    with pytest.raises(RunError, match="needs age, sex and site"):
        write_seen(folder, model, public)


@pytest.mark.parametrize("rate", [0.0, 1.0, float("nan")])
def test_a_rate_that_is_none_is_refused(tmp_path: Path, public: Path, rate: float) -> None:
    folder, model = finish(tmp_path / "run", study_with())
    with pytest.raises(DataError, match="a share between 0 and 1"):
        write_seen(folder, model, public, rate)


def test_a_run_of_one_round_has_those_of_its_noised_moments(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", STUDY)
    assert seen_of(folder) is None, "nobody has released anything"
    trains = {name: moments_of(*units(seed, 300), 0.5, seed) for seed, name in enumerate("ab")}
    releases = Releases(folder.releases, STUDY.digest)
    for name, train in trains.items():
        releases.keep(name, release_of(train))
    assert seen_of(folder) == of_moments(pooled(trains.values()))
