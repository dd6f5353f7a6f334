"""What a study may have learn, and how: each combination in a lab of three clinics, with the worst models for it."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from tests.neighbours.clinics import Patient, crowd, in_part, patient
from tests.neighbours.hostile import Genome, build, climb
from tests.neighbours.lab import Lab, Measured
from tests.neighbours.models import ordinary
from tests.neighbours.questions import model_of
from tests.neighbours.studies import pretrained, study_of

CROWD = crowd(16)
BACKBONES = {
    "head": "squeezenet1_1",
    "affine": "mobilenet_v3_small",
    "last_block": "squeezenet1_1",
    "full": "simple_cnn",
}
"""The quickest that has such parameters."""


@dataclass(frozen=True)
class Combination:
    """What learns, whether metadata are joined, how gradients are bounded, pictures and views of the patient, and q."""

    train: str
    metadata: bool
    clipping: str
    images: int = 1
    views: int = 1
    rate: float = 1.0

    def __str__(self) -> str:
        """Return it as a test's name."""
        words = [self.train, "metadata" if self.metadata else "", self.clipping]
        words += [f"{self.images} images" if self.images > 1 else "", f"{self.views} views" if self.views > 1 else ""]
        return " ".join(filter(None, [*words, f"q {self.rate:g}" if self.rate < 1 else ""]))

    @property
    def one(self) -> Patient:
        """The patient who comes or leaves."""
        looks = [7, 8, 9, 11][: self.images]
        return in_part("train", lambda name: patient(name, looks, 1, 0 if self.images > 3 else 1))

    def study(self, weights: Path) -> StudyProtocol:
        """Return the study; `weights`: a folder for pretrained ones, which are made there."""
        sections = {
            "privacy": {
                "steps": 1 if self.rate == 1 else 2,
                "sampling_rate": self.rate,
                "clipping": self.clipping,
                "views": self.views,
            },
            "training": {"augment": self.views > 1 or self.train == "full", "positive_weight": 100.0},
        }
        model = {"metadata": self.metadata, "train": self.train}
        if self.train == "full":
            return study_of(model=model, **sections)
        return pretrained(weights, BACKBONES[self.train], model=model, **sections)


COMBINATIONS = [
    *(
        Combination(train, metadata, clipping, images=1 + 3 * metadata)
        for train, metadata, clipping in itertools.product(BACKBONES, (False, True), ("fixed", "normalised"))
    ),
    Combination("head", True, "fixed", images=2, views=3),
    Combination("full", True, "normalised", images=4, views=2, rate=0.5),
    Combination("last_block", False, "fixed", images=2, rate=0.5),
]


@dataclass(frozen=True)
class Bench:
    """A lab for one combination, and the model that hostile ones are made of."""

    lab: Lab
    own: Tensors

    def measure(self, genome: Genome) -> Measured:
        """Return what one patient changes under the model that a genome describes."""
        return self.lab.measure(build(self.own, genome))

    def bound(self, genome: Genome) -> float:
        """Return the worst of that over what it may be."""
        return self.measure(genome).bound(len(CROWD))

    def worst(self, steps: int, seed: int = 0) -> tuple[float, Measured]:
        """Return the worst over what it may be, and what was measured there: at the start, then by climbing.

        Half of the climb is towards a longer share, half towards more rounding of the others.
        """
        tried: list[tuple[float, Measured]] = []

        def note(measured: Measured, goal: Callable[[Measured], float]) -> float:
            tried.append((measured.bound(len(CROWD)), measured))
            return goal(measured)

        note(self.lab.measure(self.own), lambda m: m.share)
        for place, goal in enumerate((lambda m: m.share, lambda m: m.rounding)):
            note_goal = partial(_noted, self, note, goal)
            climb(list(self.own), note_goal, steps // 2, seed + place)
        return max(tried, key=lambda found: found[0])


def _noted(
    bench: Bench,
    note: Callable[[Measured, Callable[[Measured], float]], float],
    goal: Callable[[Measured], float],
    genome: Genome,
) -> float:
    return note(bench.measure(genome), goal)


@contextmanager
def bench_of(combination: Combination, weights: Path) -> Iterator[Bench]:
    """Set a lab up.

    Args:
        combination: for which.
        weights: folder of pretrained weights, which are made where they are missing.
    """
    study = combination.study(weights)
    with TemporaryDirectory() as folder:
        lab = Lab(Path(folder), study, CROWD, combination.one, weights)
        yield Bench(lab, ordinary(model_of(study, weights)))
