"""Two worlds: a clinic with one patient, chosen to be the worst, and the same clinic without; and what both are asked.

Each `Scenario` is a pair of clinics, a hostile study's questions, and a model that goes with them. The patients'
pictures are white or black, which a model can tell apart (`melfed.simulations.audit.network`); names are chosen by the
part that they lead to. The auditor knows everything but which of the two clinics answers.
"""

import contextlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch

from melfed.client.config.policy import ClinicPolicy
from melfed.client.data.split import Part
from melfed.client.ledger.key import ledger_key
from melfed.client.privacy.plan import privacy_of
from melfed.client.worker.guard import Protection
from melfed.client.worker.worker import ClinicWorker
from melfed.common.errors import MelfedError
from melfed.common.study.build import seal
from melfed.common.study.protocol import PrivacySpec, StudyProtocol
from melfed.common.tensors import Tensors
from melfed.simulations.audit import network
from melfed.simulations.audit.door import (
    AuditedClinic,
    Picture,
    Question,
    Seen,
    images_of,
    nameless,
    patients,
    png,
    policy_for,
    write_data,
)
from melfed.simulations.audit.statistics import Floats, Observation, observe

BENIGN: Final = ("nv", "bkl", "df", "vasc")
"""Diagnoses for who is not positive: the first that the study does not call so."""
OTHERS: Final = 14
"""Training patients besides the one: with that one a count rounds the other way, to tens as to fifteens."""
SEVERAL_IMAGES: Final = 16
"""More than all others have together."""
MANY_IMAGES: Final = 900
FEW: Final = 3
DEALT: Final = 60
"""Positive patients besides the one, where it is looked whether that one moves others."""
CANDIDATES: Final = 8
"""For that one; the guarantee is for whoever it is, so the audit takes the one who moves the most."""
RUN, OTHER_RUN = "run", "another run"
CPU: Final = torch.device("cpu")


@dataclass
class Scenario:
    """A pair of clinics and what is asked of whichever answers.

    Attributes:
        name: says what is special about the patient, and what the coordinator does.
        study: that the coordinator sends.
        clinics: without and with the patient.
        questions: in their order, by a name that says which.
        direction: where the patient would move the noise-free sum, of unit length, by tensor; empty where nowhere.
        fresh: whether the clinic has run no network on its pictures yet, so that the first answer takes longer.
    """

    name: str
    study: StudyProtocol
    clinics: tuple[AuditedClinic, AuditedClinic]
    questions: Mapping[str, Question]
    direction: Mapping[str, Floats] = field(default_factory=dict)
    fresh: bool = False

    def trial(self, included: bool, statistic: str | None = None) -> Observation:
        """Ask one of the two clinics, which nobody has asked before.

        Args:
            included: whether that with the patient.
            statistic: what will be looked at: questions after all that it needs are left out; None: nothing is.
        """
        clinic = self.clinics[included]
        clinic.forget(features=self.fresh)
        answers: dict[str, Seen] = {}
        needed = statistic.partition(": ")[0] if statistic else None
        for label, question in self.questions.items():
            seen = clinic.ask(self.study, question)
            # How far work had come that was called off is a matter of time, which is not protected.
            if not question.called_off:
                answers[label] = seen
            if label == needed:
                break
        sent = {label: question.tensors for label, question in self.questions.items()}
        return observe(answers, sent, self.direction)

    def close(self) -> None:
        """Stop both clinics."""
        for clinic in self.clinics:
            clinic.close()


def hostile_study(study: StudyProtocol, epsilon: float, weights: Path) -> StudyProtocol:
    """Return what the coordinator sends: the privacy of a study, with a tiny network and steps that hide nothing.

    Args:
        study: whose unit, clipping, views, δ and parts are kept; everybody takes part in every step.
        epsilon: that it states.
        weights: folder of the network's.
    """
    privacy = privacy_of(study)
    content = {
        "name": "audit",
        "data": {"image_size": network.SIDE, "positive": study.data.positive},
        "partition": {
            "validation": study.partition.validation,
            "test": study.partition.test,
            "minimum_images": OTHERS + 1,
        },
        "model": {"backbone": network.BACKBONE, "pretrained": True, "train": "last_block"},
        "training": {
            "optimizer": "sgd",
            "learning_rate": 1e-3,
            "momentum": 0.0,
            "weight_decay": 0.0,
            "gradient_norm": None,
            "warmup_steps": 0,
            "augment": False,
            # So that the bias alone has a gradient longer than the clipping norm.
            "positive_weight": min(max(1.0, 2 * privacy.clipping_norm), 1000.0),
        },
        "federation": {"rounds": 2, "validate_every": 2},
        "privacy": {
            **privacy.model_dump(),
            "epsilon": epsilon,
            "noise_multiplier": None,
            "recipe": "manual",
            "sampling_rate": 1.0,
            "steps": 2,
        },
        "seed": study.seed,
    }
    return seal(StudyProtocol.model_validate(content), weights)


@contextlib.contextmanager
def scenarios(study: StudyProtocol, epsilon: float, folder: Path) -> Iterator[list[Callable[[], Scenario]]]:
    """Return what makes each scenario that fits a study's privacy, in a folder; all that were made end with this."""
    weights = folder / "weights"
    network.write_weights(weights)
    hostile = hostile_study(study, epsilon, weights)
    maker = _Maker(hostile, policy_for(hostile, epsilon), folder, weights)
    try:
        yield maker.scenarios()
    finally:
        for scenario in maker.made:
            scenario.close()


class _Maker:
    """Makes clinics of a study in a folder."""

    def __init__(self, study: StudyProtocol, policy: ClinicPolicy, folder: Path, weights: Path) -> None:
        self.study, self.policy, self.folder, self.weights = study, policy, folder, weights
        self.privacy: PrivacySpec = privacy_of(study)
        self.made: list[Scenario] = []
        self.key = ledger_key(folder / "key" / "ledger.jsonl")
        self.colours = {
            white: png(np.full((network.SIDE, network.SIDE, 3), 255 * white, np.uint8)) for white in (False, True)
        }

    def scenarios(self) -> list[Callable[[], Scenario]]:
        """Return what makes each scenario."""
        several = 1 if self.privacy.unit == "image" else SEVERAL_IMAGES
        made: list[Callable[[], Scenario]] = [
            partial(self._lone, "alone in a class, with several images", several, network.blind),
            partial(self._lone, "overflowing gradients of that patient alone", several, network.overflowing),
            partial(self._lone, "infinite features of that patient alone", several, network.infinite),
            self._dealt,
            partial(self._lone, "huge gradients of that patient alone", several, network.huge),
            partial(self._lone, "tiny gradients of that patient alone", several, network.tiny),
        ]
        if self.privacy.evaluation == "noised" and self.study.partition.test:
            made.append(partial(self._lone, "in the test part, alone in a class", several, network.blind, "test"))
        if self.privacy.unit != "image":
            made.append(
                partial(self._lone, "many images, work called off", MANY_IMAGES, network.blind, called_off=True)
            )
        return made

    def _lone(
        self, name: str, images: int, model: Callable[[], Tensors], part: Part = "train", called_off: bool = False
    ) -> Scenario:
        """Return a scenario of a patient who alone is positive."""
        pair = self._pair(f"{part}-{images}", self._others(), self._patient(part, images))
        # A model for one training patient says nothing in an evaluation, where that patient is not.
        evaluated = part == "test" or (model is network.blind and not called_off)
        return self._scenario(name, pair, model(), called_off, evaluated)

    def _dealt(self) -> Scenario:
        """Return the scenario in which a patient may move others: a model learns from those alone who would come."""
        others = [*self._others(), *self._pictures(None, DEALT, positive=True, white=True, start="other")]
        # Their names lie among the others', so that whatever goes by an order of names sees each in another place.
        candidates = [self._patient("train", 1, white=False, start=f"other-{place}x") for place in range(CANDIDATES)]
        moved = [self._moved(others, patient) for patient in candidates]
        worst = max(range(CANDIDATES), key=lambda number: len(moved[number]))
        black = self.colours[False]
        painted = [
            replace(picture, content=black) if picture.record.image in moved[worst] else picture for picture in others
        ]
        pair = self._pair("dealt", painted, candidates[worst])
        return self._scenario("others who would move with that patient", pair, network.silencing())

    def _moved(self, others: Sequence[Picture], patient: Sequence[Picture]) -> set[str]:
        """Return the images that are in the training part with a patient and not without."""
        pair = self._pair("dealt", others, patient)
        before, after = ({record.image for record in clinic.data(self.study).train} for clinic in pair)
        return after - before

    def _others(self) -> list[Picture]:
        """Return everybody else: negatives, some of them in the other parts, whom every model finds unsuspicious."""
        others = self._pictures("train", OTHERS, positive=False, white=False)
        for part in ("validation", "test"):
            if getattr(self.study.partition, part):
                others += self._pictures(part, FEW, positive=False, white=False)
        return others

    def _patient(self, part: Part, images: int, white: bool = True, start: str = "one") -> list[Picture]:
        """Return the images of the one patient, whose name starts so."""
        return self._pictures(part, 1, positive=True, white=white, start=start, images=images)

    def _pictures(
        self, part: Part | None, count: int, *, positive: bool, white: bool, start: str = "", images: int = 1
    ) -> list[Picture]:
        """Return the images of so many patients who are in a part (None: in whichever)."""
        like = nameless(int(positive), _diagnosis(self.study, positive))
        found = patients(start or f"{part}-{int(positive)}", count, self.study, self.key, part, like)
        return [Picture(record, self.colours[white]) for patient in found for record in images_of(patient, images)]

    def _pair(
        self, name: str, others: Sequence[Picture], patient: Sequence[Picture]
    ) -> tuple[AuditedClinic, AuditedClinic]:
        """Write a clinic without and one with a patient; both have one secret, which the auditor knows."""
        pair = []
        for world, pictures in (("without", others), ("with", [*others, *patient])):
            folder = self.folder / name / world
            write_data(folder, pictures)
            clinic = AuditedClinic(folder, self.policy, CPU, self.weights)
            clinic.take_key(self.key)
            pair.append(clinic)
        return pair[0], pair[1]

    def _scenario(
        self,
        name: str,
        clinics: tuple[AuditedClinic, AuditedClinic],
        model: Tensors,
        called_off: bool = False,
        evaluated: bool = True,
    ) -> Scenario:
        other = {key: value + np.float32(1e-6) for key, value in model.items()}
        second = {"train 3": Question("train", RUN, 2, model)}
        if called_off:
            second = {
                "called off": Question("train", RUN, 2, model, called_off=True),
                "train 3": Question("train", RUN, 2, other),
            }
        evaluations = {f"evaluate {number}": Question("evaluate", RUN, 0, model) for number in (1, 2)}
        questions = {
            "describe 0": Question("describe", RUN, counts=False),
            "describe 1": Question("describe", RUN),
            "describe 2": Question("describe", RUN),
            "train 1": Question("train", RUN, 1, model),
            "train 2": Question("train", RUN, 1, model),
            **second,
            **(evaluations if evaluated else {}),
            "train 4": Question("train", RUN, 1, other),
            "describe 3": Question("describe", OTHER_RUN),
        }
        direction = _direction(self.study, clinics, model)
        scenario = Scenario(name, self.study, clinics, questions, direction, called_off)
        self.made.append(scenario)
        return scenario


def _diagnosis(study: StudyProtocol, positive: bool) -> str:
    if positive:
        return study.data.positive[0]
    return next(code for code in BENIGN if code not in study.data.positive)


def _direction(study: StudyProtocol, clinics: tuple[AuditedClinic, AuditedClinic], model: Tensors) -> dict[str, Floats]:
    """Return where the patient moves a step's sum: what the auditor computes on its own, without noise."""
    content = study.model_dump(mode="json")
    content["privacy"] |= {"epsilon": None, "noise_multiplier": 0.0}
    bare = StudyProtocol.model_validate_json(json.dumps(content))
    sums: list[dict[str, Floats]] = []
    for clinic in clinics:
        with tempfile.TemporaryDirectory() as folder:
            protection = Protection(Path(folder) / "ledger.jsonl")
            try:
                worker = ClinicWorker(clinic.data(bare), bare, clinic.weights, CPU, protection=protection)
                reply = worker.train(model, 1, bare.digest, RUN)
            except MelfedError:
                # It refuses one of the two clinics, which the auditor will see as well.
                return {}
        sums.append(
            {
                name: (model[name].astype(np.float64) - after.astype(np.float64)) * reply.weight
                for name, after in reply.tensors.items()
            }
        )
    difference = {name: np.nan_to_num(sums[1][name] - sums[0][name]) for name in model}
    length = math.sqrt(math.fsum(float(np.square(d).sum()) for d in difference.values()))
    if not 0 < length < math.inf:
        return {}
    return {name: d / length for name, d in difference.items()}
