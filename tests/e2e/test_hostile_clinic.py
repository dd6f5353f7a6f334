"""One of three clinics is hostile, in everything that it can send: the others' model is what it is without that clinic.

The hostile clinic (`hostile_worker.py`) has a kit of the consortium and its own processes in the places of melfed's.
What was lost is nothing: every one of its answers is refused with a reason, or outvoted by a robust mean.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.e2e.federation import SECONDS, Federation, needs_nginx
from tests.e2e.place import SERVER, SIM

pytestmark = [needs_nginx, pytest.mark.timeout(600)]

HOSTILE, *HONEST = CLINICS = ("phantom_north", "phantom_south", "phantom_east")
DEADLINE = 40
REFUSED = {
    "nan": "not finite",
    "infinite": "not finite",
    "shape": "has shape",
    "names": "do not fit the model: lacks",
    "norm": "federation.largest_update_norm",
    "examples": "claims a weight of 1e+12,",
    "zero": "claims a weight of 0,",
    "negative": "claims a weight of -5,",
    "loss": "training loss is nan",
    "float64": "is float64, not float32",
    "digest": "another study or round",
    "round": "another study or round",
    "run": "another run",
    "histogram": "score histogram: missing or unknown arrays",
    "nonsense": "no reply that can be read",
    "large": "larger than",
}
"""What the clinic does, one a round, and a part of the reason with which it is refused."""
IMAGES = 120
"""About 80 to train on, 40 of them the honest clinics': the same power of sixteen is above both sums of weights, so the
mean's unit is the same with and without the hostile clinic (`FixedPoint`), and models can be compared bit by bit."""
UNENDING = ("silence", "endless")
"""A reply that is announced and not sent, and one that the worker does not come to the end of."""

STUDY = """\
name: {name}
data: {{image_size: 48{sources}}}
partition: {{by: source, minimum_images: 4}}
model: {{backbone: simple_cnn, pretrained: false}}
training: {{optimizer: sgd, learning_rate: 0.05, warmup_steps: 0, augment: false, batch_size: 8}}
federation: {{rounds: {rounds}, quorum: 0.6, grace_seconds: 60{more}}}
privacy: null
"""
Model = dict[str, np.ndarray[Any, Any]]


class Hostility:
    """A federation with a hostile clinic, and what its honest clinics make of a study without it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        place = Federation.__new__(Federation)
        place.folder, place.environment = folder, dict(os.environ)
        place.run(SIM, "phantom", folder / "lesions", "--clinics", 3, "--images", IMAGES, "--size", 48)
        (folder / "all").mkdir()
        self.federation = Federation(folder / "all", folder / "lesions", CLINICS, {"non_private": True})
        self.deeds, self.done = folder / "deeds", folder / "done"
        self.plan(())

    def start(self) -> None:
        """Start everybody."""
        federation = self.federation
        federation.environment |= {"DEEDS": str(self.deeds), "DONE": str(self.done)}
        federation.start_server()
        for clinic in HONEST:
            federation.start_clinic(clinic)
        script, config = Path(__file__).with_name("hostile_worker.py"), federation.kit(HOSTILE) / "clinic.yaml"
        federation.start(HOSTILE, Path(sys.executable), script, "start", "--config", config)
        federation.wait_online(*CLINICS)

    def plan(self, deeds: Sequence[str]) -> None:
        """Have the hostile clinic do these things, one a round."""
        self.deeds.write_text("\n".join(deeds))
        self.done.write_text("")

    def run(self, name: str, rounds: int, more: str = "", deadline: float = 300) -> str:
        """Run a study with all three; return what follows it on the terminal."""
        study = self._study(name, rounds, f", deadline_seconds: {deadline}{more}")
        sealed = self.federation.folder / f"{name}-sealed.yaml"
        self.federation.run(SERVER, "study", study, "--out", sealed)
        for clinic in CLINICS:
            self.federation.clinic(clinic, "approve", sealed)
        return self._followed(sealed, name)

    def _followed(self, sealed: Path, name: str) -> str:
        log = self.federation.folder / f"{name}.log"
        self.federation.start(name, SERVER, "run", sealed, "--out", name)
        assert self.federation.daemons.pop(name).wait(timeout=2 * SECONDS) == 0, log.read_text()
        return log.read_text()

    def without(self, rounds: int) -> Model:
        """The model of the honest clinics alone, simulated."""
        name = f"honest-{rounds}"
        study = self._study(name, rounds, sources=f", sources: [{', '.join(HONEST)}]")
        return safetensors.numpy.load_file(self.federation.simulate(study, f"sim-{name}") / "model.safetensors")

    def model(self, run: str) -> Model:
        """A deployed run's final model."""
        return safetensors.numpy.load_file(self.federation.server / "runs" / run / "model.safetensors")

    def first(self) -> Model:
        """The model that every run begins with."""
        from melfed.common.model.classifier import trainable_tensors
        from melfed.common.study.build import build_study_classifier
        from melfed.common.study.file import read_study

        return trainable_tensors(build_study_classifier(read_study(self._study("first", 1)), None))

    def _study(self, name: str, rounds: int, more: str = "", sources: str = "") -> Path:
        path = self.federation.folder / f"{name}.yaml"
        path.write_text(STUDY.format(name=name, rounds=rounds, more=more, sources=sources))
        return path


@pytest.fixture(scope="module")
def hostility(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostility]:
    made = Hostility(tmp_path_factory.mktemp("h") / "h")
    try:
        made.start()
        yield made
    finally:
        made.federation.close()


def distance(one: Model, other: Model) -> float:
    return float(np.sqrt(sum(np.sum((one[name].astype(np.float64) - other[name]) ** 2) for name in one)))


def same(one: Model, other: Model) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_whatever_a_clinic_sends_is_refused_with_its_reason_and_the_model_is_the_others(hostility: Hostility) -> None:
    """What was lost: nothing. The two honest clinics' model is bit for bit that of a simulation of them alone."""
    deeds = tuple(REFUSED)
    # Its first request of a round comes with a histogram to be judged from the second on.
    assert deeds[0] != "histogram"
    hostility.plan(deeds)
    told = hostility.run("hostile", len(deeds), ", largest_update_norm: 1000.0")
    federation = hostility.federation
    # Some may be done twice: where a round is slow, the clinic is reminded.
    assert list(dict.fromkeys(hostility.done.read_text().split())) == list(deeds)

    rounds = [event for event in federation.events("hostile") if event["event"] == "round"]
    assert [event["round"] for event in rounds] == list(range(1, len(deeds) + 1))
    refused = [
        (row["round"], row["reason"])
        for row in federation.audit("server")
        if row["event"] == "update-refused" and row["clinic"] == HOSTILE
    ]
    lines = " ".join(told.split()).split(f"clinic {HOSTILE}")[1:]
    for event, (deed, reason) in zip(rounds, REFUSED.items(), strict=True):
        assert event["answered"] == sorted(HONEST), deed
        assert set(event["failed"]) == {HOSTILE}, deed
        assert reason in event["failed"][HOSTILE], deed
        assert any(number == event["round"] and reason in said for number, said in refused), deed
        assert any(reason in line for line in lines), deed

    # In the end it lies about its test images as well.
    assert refused[-1][0] == len(deeds)
    assert "score histogram: negatives has a negative entry" in refused[-1][1]
    summary = json.loads((federation.server / "runs" / "hostile" / "summary.json").read_text())
    assert {clinic["name"] for clinic in summary["clinics"] if clinic["test"]["images"]} == set(HONEST)
    assert same(hostility.model("hostile"), hostility.without(len(deeds)))


def test_a_reply_that_never_ends_is_given_up_at_the_deadline(hostility: Hostility) -> None:
    """What was lost: nothing but time. A reply of which no part comes holds up neither the others nor the deadline."""
    hostility.plan(UNENDING)
    told = hostility.run("unending", len(UNENDING), deadline=DEADLINE)
    federation = hostility.federation
    # Nobody having answered, it is asked again within a round.
    assert set(hostility.done.read_text().split()) == set(UNENDING)
    rounds = [event for event in federation.events("unending") if event["event"] == "round"]
    for event in rounds:
        assert event["answered"] == sorted(HONEST)
        assert event["failed"] == {HOSTILE: f"no answer within {DEADLINE} s"}
        assert event["seconds"] < DEADLINE + 20
    # Of this run alone: in the one before, a request may have come to its clinic after its round had ended.
    run = (federation.server / "runs" / "unending" / "run-id").read_text().strip()
    lost = [row for row in federation.audit("server") if row["id"] == 2009 and row["clinic"] == HOSTILE]
    assert [row["reason"] for row in lost if row["run"] == run] == [f"no answer within {DEADLINE} s"] * len(UNENDING)
    assert told.count(f"clinic {HOSTILE} is lost: no answer within {DEADLINE} s") == len(UNENDING)
    assert same(hostility.model("unending"), hostility.without(len(UNENDING)))


def test_a_robust_mean_outvotes_a_clinic_that_lies_plausibly(hostility: Hostility) -> None:
    """An update of the right form, ten times as long, the wrong way: the plain mean follows it, the others do not."""
    rounds = 4
    hostility.plan(("poison",) * rounds)
    models = {}
    for name, more in (
        ("plain", ""),
        ("median", ", robust: median"),
        ("krum", ", robust: krum, robust_byzantine: 0"),
    ):
        hostility.run(name, rounds, more)
        last = [event for event in hostility.federation.events(name) if event["event"] == "round"][-1]
        assert last["answered"] == sorted(CLINICS)
        models[name] = hostility.model(name)
    assert hostility.done.read_text().count("poison") >= rounds * 3
    honest, first = hostility.without(rounds), hostility.first()
    way = distance(honest, first)
    off = {name: distance(model, honest) / way for name, model in models.items()}
    assert off["median"] < 0.9 > off["krum"], off
    assert off["plain"] > 3, off
