"""What a private head gains by another clipping norm, rate or weight of clinics: its steps alone, in NumPy.

The features of a study's public network are computed once; then gradients are averaged over a unit's images, clipped,
summed and noised as a clinic does it, and go into the head as the study's recipe says, from its shortened public head.
AUROC is that of the own test parts: choose by a study of other sources than the one that is to be judged.

    python -m melfed.simulations.benchmarks.private_heads STUDY --data DIR [--weights RUN] [--epsilon E...]
    [--norm C...] [--rate TIMES...] [--power P...] [--draws N] [--seed S] [--set KEY.PATH=VALUE...]
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from melfed.client.data.split import Part
from melfed.client.privacy.units import Unit, privacy_units
from melfed.common.study.head_steps import HeadSteps, Room, best_steps
from melfed.common.study.moments_noise import learning_mu
from melfed.common.study.protocol import StudyProtocol

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Images:
    """A clinic's images, ordered by unit.

    Attributes:
        features: of each, and a 1 for the bias, shape (n, d + 1).
        targets: 0 or 1 of each, shape (n,).
        starts: where each unit's images begin, shape (units,).
    """

    features: FloatArray
    targets: FloatArray
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, features: npt.NDArray[np.float32], targets: npt.NDArray[np.float32], units: Sequence[str]) -> "Images":
        """Order images by unit."""
        names, unit = np.unique(np.array(units, dtype=str), return_inverse=True)
        order = np.argsort(unit, kind="stable")
        rows = np.concatenate([features, np.ones((len(features), 1))], axis=1).astype(np.float64)
        starts = np.searchsorted(unit[order], np.arange(len(names)))
        return cls(rows[order], targets[order].astype(np.float64), starts)

    def clipped_sum(self, head: FloatArray, norm: float, positive_weight: float) -> FloatArray:
        """Return the sum of units' mean gradients, each shortened to `norm`, shape (d + 1,)."""
        scores = self.features @ head
        off = 1 / (1 + np.exp(-scores)) - self.targets
        rows = self.features * (off * np.where(self.targets == 1, positive_weight, 1.0))[:, None]
        images = np.diff(np.append(self.starts, len(rows)))
        means = np.add.reduceat(rows, self.starts, axis=0) / images[:, None]
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        return np.asarray((means * np.minimum(1.0, norm / np.maximum(lengths, 1e-300))).sum(axis=0))


@dataclass(frozen=True)
class Way:
    """How steps are taken.

    Attributes:
        mu: of all steps together; infinity: no noise.
        norm: C.
        power: clinics weigh by this power of their units.
    """

    mu: float
    norm: float = 1.0
    power: float = 1.0


def trained(
    clinics: Sequence[Images],
    start: FloatArray,
    steps: HeadSteps,
    way: Way,
    positive_weight: float,
    random: np.random.Generator,
) -> FloatArray:
    """Return the head, shape (d + 1,), after the steps of a private study."""
    units = np.array([len(clinic.starts) for clinic in clinics], np.float64)
    weights = units**way.power / (units**way.power).sum()
    std = way.norm * np.sqrt(steps.rounds) / way.mu
    head, moved, path = start.copy(), np.zeros_like(start), list[FloatArray]()
    for _ in range(steps.rounds):
        sums = [
            each.clipped_sum(head, way.norm, positive_weight) + random.normal(0, std, len(head)) for each in clinics
        ]
        mean_gradient = sum(w * total / n for w, total, n in zip(weights, sums, units, strict=True))
        moved = steps.momentum * moved - steps.rate * mean_gradient
        head = head + moved
        path.append(head)
    return np.asarray(np.mean(path[-max(1, round(steps.average * steps.rounds)) :], axis=0))


def auroc(images: Sequence[Images], head: FloatArray) -> float:
    """Return the AUROC of a head on the images of all clinics."""
    from sklearn.metrics import roc_auc_score

    scores = np.concatenate([each.features @ head for each in images])
    return float(roc_auc_score(np.concatenate([each.targets for each in images]), scores))


def prepared(study: StudyProtocol, unit: Unit, data: Path) -> tuple[list[Images], list[Images], FloatArray]:
    """Return the clinics' training and test images, and the head that a study begins at, shape (d + 1,)."""
    import torch

    from melfed.client.training.feature_cache import computed_features
    from melfed.common.data.images.store import default_cache
    from melfed.common.study.build import build_study_classifier
    from melfed.simulations.partition.virtual_clinics import divide

    model = build_study_classifier(study).requires_grad_(False).eval()
    model.head.requires_grad_(True)
    parts: dict[str, list[Images]] = {"train": [], "test": []}
    shown: tuple[Part, ...] = ("train", "test")
    for clinic, part in product(divide(study, data, default_cache()).clinics, shown):
        images = clinic.load(part)
        if len(images):
            features = computed_features(model, images, study.data.image_size, torch.device("cpu"))
            parts[part].append(Images.of(features, images.targets, privacy_units(images.records, unit)))
    head = torch.cat([model.head.weight[0], model.head.bias]).detach().numpy().astype(np.float64)
    return parts["train"], parts["test"], head


def main(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY", help="A private study of a head on a public neck.")],
    data: Annotated[Path, typer.Option(help="Folder of labelled images.")],
    weights: Annotated[Path | None, typer.Option(help="The public warm start, a finished run.")] = None,
    epsilons: Annotated[list[float], typer.Option("--epsilon")] = [1.0, 3.0, 8.0],  # noqa: B006
    norms: Annotated[list[float], typer.Option("--norm", help="Clipping norm.")] = [0.5, 1.0, 2.0],  # noqa: B006
    rates: Annotated[list[float], typer.Option("--rate", help="Times the rule's rate.")] = [0.5, 1.0],  # noqa: B006
    powers: Annotated[list[float], typer.Option("--power", help="Of units, as weights of clinics.")] = [1.0],  # noqa: B006
    draws: Annotated[int, typer.Option(min=1, help="Of the noise.")] = 4,
    seed: Annotated[int, typer.Option(help="Divides the images, and draws the noise.")] = 0,
    overrides: Annotated[list[str], typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a key.")] = [],  # noqa: B006
) -> None:
    """Print the AUROC of each way, the mean of some draws of the noise."""
    from melfed.common.errors import StudyError
    from melfed.common.study.file import read_study

    changes = [*overrides, *([f"model.weights={weights}"] if weights else [])]
    study = read_study(study_file, changes, seed)
    if study.privacy is None or study.model.neck is None or study.model.metadata:
        raise StudyError(f"study {study.name}: not a private study of a head on a neck (model.neck) without metadata")
    clinics, test, start = prepared(study, study.privacy.unit, data)
    print("| ε | norm | times the rate | power | AUROC |\n| --- | --- | --- | --- | --- |")
    for epsilon in epsilons:
        privacy = study.privacy.model_copy(update={"epsilon": epsilon, "noise_multiplier": None})
        mu = learning_mu(privacy)
        rule = best_steps(Room(study.head_features, privacy.patients, len(clinics), mu))
        for norm, rate, power in product(norms, rates, powers):
            steps, way = replace(rule, rate=rule.rate * rate), Way(mu, norm, power)
            heads = [
                trained(clinics, start, steps, way, study.training.positive_weight, np.random.default_rng((seed, draw)))
                for draw in range(draws)
            ]
            print(
                f"| {epsilon:g} | {norm:g} | {rate:g} | {power:g} | {mean(auroc(test, head) for head in heads):.4f} |"
            )


if __name__ == "__main__":
    typer.run(main)
