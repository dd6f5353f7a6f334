"""Central and local baselines against a plain loop, and resumed after a kill."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from melfed.client.data.clinic_data import ClinicData, load_part
from melfed.common.data.augmentation import to_input
from melfed.common.data.subgroups import cell_names
from melfed.common.errors import RunError, StudyError
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.model.backbones import BACKBONES
from melfed.common.model.classifier import load_trainable, trainable_tensors
from melfed.common.model.inference import score
from melfed.common.seeds import seed_for
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.simulations.baselines import Baseline
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.small import CPU, small_model, small_study, without_dropout
from tests.common.runs import finished_run, public_model

Clinics = tuple[ClinicData, ...]


class Killed(BaseException):
    """What a test stops a run with."""


class Recorder:
    """An observer that writes down what it is told, and may stop the run."""

    def __init__(self, stop: Callable[[str, tuple[object, ...]], bool] = lambda _name, _arguments: False) -> None:
        self.told: list[tuple[object, ...]] = []
        self.stop = stop

    def __getattr__(self, name: str) -> Callable[..., None]:
        def tell(*arguments: object) -> None:
            self.told.append((name, *arguments))
            if self.stop(name, arguments):
                raise Killed

        return tell

    def of(self, name: str) -> list[tuple[object, ...]]:
        return [rest for first, *rest in self.told if first == name]


@pytest.fixture(scope="module")
def clinics(phantom_clinics: VirtualClinics) -> Clinics:
    return phantom_clinics.clinics


def a_study(mode: str, **sections: object) -> StudyProtocol:
    federation = {"mode": mode, "rounds": 3, **sections.pop("federation", {})}
    training = {"schedule": "one_cycle", **sections.pop("training", {})}
    return small_study(federation=federation, training=training, **sections)


def run(
    study: StudyProtocol,
    clinics: Clinics,
    path: Path,
    observer: Recorder | None = None,
    *,
    dropout: bool = True,
) -> Outcome:
    model = small_model(study)
    folder = RunFolder.open(path) if path.exists() else RunFolder.create(path, study)
    model = model if dropout else without_dropout(model)
    return Baseline(study, clinics, model, CPU).train(folder, observer or Recorder())


def events(path: Path) -> list[dict[str, object]]:
    """The events of a run in one order, without what the clock says."""
    rows = [{key: value for key, value in event.items() if key != "seconds"} for event in RunFolder.open(path).events()]
    return sorted(rows, key=lambda row: (row["round"], row["event"]))


def assert_same(one: Tensors, two: Tensors, tolerance: float = 0.0) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        np.testing.assert_allclose(tensor, two[name], rtol=tolerance, atol=tolerance, err_msg=name)


def assert_same_outcome(one: Outcome, two: Outcome) -> None:
    assert one.models.keys() == two.models.keys()
    for name, tensors in one.models.items():
        assert_same(tensors, two.models[name])
    assert one.clinics == two.clinics
    for histograms, others in ((one.test, two.test), (one.everywhere, two.everywhere)):
        assert {name: h.to_lists() for name, h in histograms.items()} == {n: h.to_lists() for n, h in others.items()}


def by_hand(study: StudyProtocol, tensors: Tensors, clinic: ClinicData, part: str) -> ScoreHistogram:
    model = small_model(study)
    load_trainable(model, tensors)
    images = clinic.load(part)
    return ScoreHistogram.from_scores(score(model, images, 32, CPU), images.targets, images.groups)


def test_central_training_is_a_plain_loop_over_all_images(clinics: Clinics, tmp_path: Path) -> None:
    training = {"optimizer": "sgd", "schedule": "constant", "positive_weight": 3.0, "gradient_norm": 0.5}
    study = a_study("central", training=training)
    outcome = run(study, clinics, tmp_path / "run", dropout=False)
    model = without_dropout(small_model(study))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=0.01)
    images = load_part(clinics, "train")
    backbone = BACKBONES["simple_cnn"]
    losses = []
    for epoch in range(3):
        order = np.random.default_rng(seed_for(study.seed, "order", "all", epoch)).permutation(len(images))
        total = 0.0
        for batch in np.split(order, range(8, len(order), 8)):
            inputs = to_input(images.pixels(batch), backbone.mean, backbone.std, None)
            targets = torch.from_numpy(images.targets[batch])
            loss = F.binary_cross_entropy_with_logits(model(inputs), targets, pos_weight=torch.tensor(3.0))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            total += loss.item() * len(batch)
        losses.append(total / len(order))
    assert_same(outcome.models[""], trainable_tensors(model), 1e-5)
    told = [event["train_loss"] for event in events(tmp_path / "run") if event["event"] == "round"]
    assert told == pytest.approx(losses, rel=1e-5)


def test_central_is_judged_clinic_by_clinic(clinics: Clinics, tmp_path: Path) -> None:
    study = a_study("central", federation={"rounds": 1})
    outcome = run(study, clinics, tmp_path / "run")
    assert list(outcome.models) == [""]
    assert outcome.everywhere == {}
    assert list(outcome.test) == sorted(clinic.name for clinic in clinics)
    for clinic in clinics:
        expected = by_hand(study, outcome.models[""], clinic, "test")
        assert outcome.test[clinic.name].to_lists() == expected.to_lists()
        assert outcome.clinics[clinic.name].of("train", "images") == len(clinic.train)
        assert outcome.clinics[clinic.name].of("test", "positives") == sum(record.target for record in clinic.test)
    (validation,) = [event for event in events(tmp_path / "run") if event["event"] == "validation"]
    parts = [by_hand(study, outcome.models[""], clinic, "validation") for clinic in clinics]
    assert validation["histogram"] == sum(parts, ScoreHistogram.empty()).to_lists()


@pytest.mark.parametrize("mode", ["central", "local"])
def test_baselines_tell_subgroups_too(clinics: Clinics, tmp_path: Path, mode: str) -> None:
    study = a_study(mode, federation={"rounds": 1}).with_changes("evaluation", subgroups=("age", "source"))
    outcome = run(study, clinics, tmp_path / "run")
    assert tuple(outcome.subgroups) == cell_names(("age",))
    whole = sum(outcome.subgroups.values(), ScoreHistogram.empty())
    assert whole.to_lists() == sum(outcome.test.values(), ScoreHistogram.empty()).to_lists()
    assert sum(h.images > 0 for h in outcome.subgroups.values()) > 1


def test_a_clinic_alone_learns_from_its_own_images_only(clinics: Clinics, tmp_path: Path) -> None:
    study = a_study("local", federation={"rounds": 2}, training={"augment": True})
    north, south, east = clinics
    with_south = run(study, (north, south), tmp_path / "one")
    with_east = run(study, (east, north), tmp_path / "two")
    alone = run(study, (north,), tmp_path / "three")
    assert_same(with_south.models[north.name], with_east.models[north.name])
    assert_same(with_south.models[north.name], alone.models[north.name])
    assert with_south.models.keys() == {north.name, south.name}
    weights = [with_south.models[clinic.name]["head.weight"] for clinic in (north, south)]
    assert np.abs(weights[0] - weights[1]).max() > 1e-4


def test_local_models_are_judged_at_home_and_everywhere(clinics: Clinics, tmp_path: Path) -> None:
    study = a_study("local", federation={"rounds": 1})
    outcome = run(study, clinics, tmp_path / "run")
    assert outcome.test.keys() == outcome.everywhere.keys() == {clinic.name for clinic in clinics}
    for home in clinics:
        parts = {clinic.name: by_hand(study, outcome.models[home.name], clinic, "test") for clinic in clinics}
        assert outcome.test[home.name].to_lists() == parts[home.name].to_lists()
        assert outcome.everywhere[home.name].to_lists() == sum(parts.values(), ScoreHistogram.empty()).to_lists()
        assert outcome.everywhere[home.name].images == sum(len(clinic.test) for clinic in clinics)


def test_the_local_loss_is_the_mean_over_all_images(clinics: Clinics, tmp_path: Path) -> None:
    study = a_study("local", federation={"rounds": 1})
    run(study, clinics, tmp_path / "all")
    losses = []
    for number, clinic in enumerate(clinics):
        run(study, (clinic,), tmp_path / str(number))
        losses.append(events(tmp_path / str(number))[0]["train_loss"])
    sizes = [len(clinic.train) for clinic in clinics]
    assert events(tmp_path / "all")[0]["train_loss"] == pytest.approx(np.average(losses, weights=sizes))


def in_round(number: int, what: str) -> Callable[[str, tuple[object, ...]], bool]:
    """Stop at an event of one round."""
    current = 0

    def stop(name: str, arguments: tuple[object, ...]) -> bool:
        nonlocal current
        if name == "round_started":
            current = int(str(arguments[0]))
        return name == what and current == number

    return stop


@pytest.mark.parametrize("mode", ["central", "local"])
@pytest.mark.parametrize(
    "place", [(1, "waiting"), (2, "round_started"), (2, "waiting"), (2, "round_finished"), (3, "evaluating")]
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    clinics: Clinics, tmp_path: Path, mode: str, place: tuple[int, str]
) -> None:
    study = a_study(mode, training={"augment": True, "warmup_steps": 5})
    # Names that could be taken for parts of one another in a checkpoint.
    names = ("north", "north/head", "north%2Fhead")
    clinics = tuple(replace(clinic, name=name) for clinic, name in zip(clinics, names, strict=True))
    whole = run(study, clinics, tmp_path / "whole")
    with pytest.raises(Killed):
        run(study, clinics, tmp_path / "killed", Recorder(in_round(*place)))
    observer = Recorder()
    resumed = run(study, clinics, tmp_path / "killed", observer)
    assert_same_outcome(whole, resumed)
    assert events(tmp_path / "killed") == events(tmp_path / "whole")
    finished = {"waiting": place[0] - 1, "round_started": place[0] - 1}.get(place[1], place[0])
    (started,) = observer.of("started")
    assert started[1:] == [finished + 1, 3]
    assert [number for number, *_ in observer.of("round_finished")] == list(range(finished + 1, 4))


def test_a_run_of_another_study_is_not_gone_on_with(clinics: Clinics, tmp_path: Path) -> None:
    run(a_study("central"), clinics, tmp_path / "run")
    with pytest.raises(RunError, match="of study"):
        run(a_study("central", seed=1), clinics, tmp_path / "run")


def test_validations_are_made_when_the_study_says(clinics: Clinics, tmp_path: Path) -> None:
    run(a_study("central", federation={"validate_every": 2}), clinics, tmp_path / "run")
    rounds = [event["round"] for event in events(tmp_path / "run") if event["event"] == "validation"]
    assert rounds == [2, 3]


@pytest.mark.parametrize("mode", ["central", "local"])
def test_the_observer_hears_of_every_step(clinics: Clinics, tmp_path: Path, mode: str) -> None:
    observer = Recorder()
    run(a_study(mode, federation={"rounds": 2}), clinics, tmp_path / "run", observer)
    names = [clinic.name for clinic in clinics]
    assert set(observer.of("started")[0][0]) == set(names)
    assert [arguments[0] for arguments in observer.of("round_started")] == [1, 2]
    assert [arguments[0] for arguments in observer.of("replied")] == names * 2
    assert all(error is None for _, error in observer.of("replied"))
    assert [arguments[0] for arguments in observer.of("round_finished")] == [1, 2]
    assert [sorted(arguments[0]) for arguments in observer.of("evaluating")] == [sorted(names)]
    last = {}
    for (read,) in observer.of("watch"):
        last.update(read())
    sizes = {clinic.name: len(clinic.train) for clinic in clinics}
    assert last == ({"all": sum(sizes.values())} if mode == "central" else sizes)


def test_a_training_that_explodes_is_an_error_in_one_line(clinics: Clinics, tmp_path: Path) -> None:
    training = {"optimizer": "sgd", "learning_rate": 100.0, "momentum": 0.99, "batch_size": 1}
    study = a_study(
        "central", training={**training, "schedule": "constant", "positive_weight": 1000.0, "gradient_norm": None}
    )
    model = small_model(study)
    with torch.no_grad():
        model.head.weight.mul_(1e15)
    with pytest.raises(StudyError, match=r"the training loss is not finite; lower training\.learning_rate"):
        Baseline(study, clinics, model, CPU).train(RunFolder.create(tmp_path / "run", study), Recorder())


def test_the_classifier_that_is_given_stays_as_it_is(clinics: Clinics, tmp_path: Path) -> None:
    study = a_study("local", federation={"rounds": 1})
    model = small_model(study)
    before = trainable_tensors(model)
    Baseline(study, clinics, model, CPU).train(RunFolder.create(tmp_path / "run", study), Recorder())
    assert_same(before, trainable_tensors(model))


@pytest.mark.parametrize("mode", ["central", "local"])
def test_a_frozen_prefix_runs_once_an_image_whatever_the_rounds_and_runs(
    mode: str, clinics: Clinics, tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = finished_run(tmp_path / "public", public_model())
    study = a_study(mode, model={"pretrained": True, "train": "head", "weights": str(weights)})
    own = clinics_with_cache(clinics, tmp_path)
    first = run(study, own, tmp_path / "first")
    images = sum(len(getattr(clinic, part)) for clinic in clinics for part in ("train", "validation", "test"))
    probes = 1 + 6 if mode == "central" else 9  # an image of each list, for the shape of a row
    assert sum(computed) == images + probes
    computed.clear()
    again = run(study, own, tmp_path / "second")
    assert computed == []
    for name, tensors in first.models.items():
        assert all(np.array_equal(tensors[key], again.models[name][key]) for key in tensors)
    pixels = run(study.with_changes("training", augment=False), without_features(own, monkeypatch), tmp_path / "pixels")
    for name, tensors in first.models.items():
        assert all(np.allclose(tensors[key], pixels.models[name][key], atol=1e-5) for key in tensors)


def clinics_with_cache(clinics: Clinics, tmp_path: Path) -> Clinics:
    """The clinics with their decoded images in a cache of the test's own."""
    shutil.copytree(clinics[0].cache, tmp_path / "cache", ignore=shutil.ignore_patterns("features"))
    return tuple(replace(clinic, cache=tmp_path / "cache") for clinic in clinics)


def without_features(clinics: Clinics, monkeypatch: pytest.MonkeyPatch) -> Clinics:
    """Let nothing fit into the cache."""
    monkeypatch.setattr("melfed.simulations.baselines.stored_inputs", lambda *_: None)
    return clinics
