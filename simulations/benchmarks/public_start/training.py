"""Public starts, each trained without one source: what its trunk makes of every image, kept in a file."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from melfed.common.data.dataset import Images
from melfed.common.data.records import LesionRecord, group_ids
from melfed.common.errors import DataError, StudyError
from melfed.common.seeds import seed_for
from melfed.common.study.protocol import StudyProtocol

FloatArray = npt.NDArray[np.float64]
Balance = Literal["none", "source", "class", "both"]
BALANCES: Final[tuple[Balance, ...]] = ("none", "source", "class", "both")
KEPT_APART: Final = 0.1
"""Part of each other source's groups that a start is not trained on."""


@dataclass(frozen=True)
class StartWay:
    """How a start is trained.

    Attributes:
        name: of the way, in tables and files.
        changes: to the study, `key.path=value`.
        balance: what is drawn equally often in place of each image once a pass.
    """

    name: str
    changes: tuple[str, ...] = ()
    balance: Balance = "none"

    @classmethod
    def read(cls, text: str) -> "StartWay":
        """Read `NAME[:ITEM,ITEM...]`, each item a change, or `balance=...`. Raises StudyError.

        >>> StartWay.read("large:data.image_size=144,balance=source")
        StartWay(name='large', changes=('data.image_size=144',), balance='source')
        """
        name, _, rest = text.partition(":")
        items = [item for item in rest.split(",") if item]
        stated = [item.removeprefix("balance=") for item in items if item.startswith("balance=")]
        found = [balance for balance in BALANCES if balance in stated]
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name) or len(found) != len(stated) or len(stated) > 1:
            raise StudyError(f"--start {text}: write NAME:KEY=VALUE,balance={'|'.join(BALANCES)}")
        changes = tuple(item for item in items if not item.startswith("balance="))
        return cls(name, changes, found[0] if found else "none")


@dataclass(frozen=True)
class Renamed:
    """Images of one source that are taken for another, by their numbers in the ISIC archive.

    The archive numbers what it takes in, so a stretch of numbers is a batch of one hospital.
    """

    source: str
    name: str
    first: int
    last: int

    @classmethod
    def read(cls, text: str) -> "Renamed":
        """Read `SOURCE/NAME=FIRST:LAST`. Raises StudyError.

        >>> Renamed.read("ISIC2017_other/early=0:1152")
        Renamed(source='ISIC2017_other', name='early', first=0, last=1152)
        """
        match = re.fullmatch(r"([^/=]+)/([A-Za-z0-9._-]+)=(\d+):(\d+)", text)
        if match is None:
            raise StudyError(f"--batch {text}: write SOURCE/NAME=FIRST:LAST, numbers of the ISIC archive")
        return cls(match[1], match[2], int(match[3]), int(match[4]))

    def has(self, record: LesionRecord) -> bool:
        """Tell whether an image is one of these."""
        number = re.search(r"ISIC_(\d+)", record.image)
        return record.source == self.source and number is not None and self.first <= int(number[1]) <= self.last


def renamed(records: Iterable[LesionRecord], batches: Sequence[Renamed]) -> tuple[LesionRecord, ...]:
    """Return the records, each with the source of the first batch that has it, or its own."""
    return tuple(
        replace(record, source=next((batch.name for batch in batches if batch.has(record)), record.source))
        for record in records
    )


@dataclass(frozen=True, eq=False)
class Start:
    """What a start makes of all images.

    Attributes:
        pooled: what a neck would see of each, shape (n, inputs).
        scores: the trained network's own logit of each, shape (n,).
        trained: whether it learnt from the image, shape (n,).
        left_out: whether the image is of the source that was left out, shape (n,). All others were kept apart.
    """

    pooled: npt.NDArray[np.float32]
    scores: FloatArray
    trained: npt.NDArray[np.bool_]
    left_out: npt.NDArray[np.bool_]


def public_images(study: StudyProtocol, data: Path, batches: Sequence[Renamed]) -> Images:
    """Return all images of a public study's folder, decoded, with the sources that they are taken for.

    Raises:
        DataError: as `melfed.simulations.partition.virtual_clinics.divide`.
    """
    from melfed.common.data.images.store import ImageStore, default_cache
    from melfed.simulations.partition.virtual_clinics import divide

    virtual = divide(study, data, default_cache())
    records = renamed(sorted(virtual.records, key=lambda record: record.image), batches)
    names = [record.image for record in records]
    return Images(records, ImageStore.open(default_cache(), virtual.root, names, study.data.image_size))


def sides(images: Images, source: str, seed: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which images a start learns from, and which are of the source that is left out, shape (n,) each.

    A group with an image of that source, and a tenth of the others (`KEPT_APART`), are not learnt from.
    """
    of_source = np.array([record.source == source for record in images.records])
    groups = np.array(group_ids(images.records))
    names = np.unique(groups)
    random = np.random.default_rng(seed_for(seed, "kept apart", source))
    apart = names[random.random(len(names)) < KEPT_APART]
    return ~np.isin(groups, groups[of_source]) & ~np.isin(groups, apart), of_source


def shares(records: Sequence[LesionRecord], balance: Balance) -> FloatArray:
    """Return how often each image is to be drawn, shape (n,), with a sum of 1: all that is balanced equally often.

    `both`: sources equally often and, in each that has both classes, these.

    >>> from types import SimpleNamespace as Record
    >>> records = [Record(source="A", target=0), Record(source="A", target=0), Record(source="B", target=1)]
    >>> shares(records, "source").tolist()
    [0.25, 0.25, 0.5]
    """
    source = np.array([record.source for record in records])
    target = np.array([record.target for record in records])
    weights = np.ones(len(records))
    if balance == "class":
        weights = _equal(weights, target, np.ones(len(records), np.bool_))
    if balance == "both":
        for name in np.unique(source):
            weights = _equal(weights, target, source == name)
    if balance in {"source", "both"}:
        weights = _equal(weights, source, np.ones(len(records), np.bool_))
    return np.asarray(weights / weights.sum())


def _equal(weights: FloatArray, kinds: npt.NDArray[np.generic], where: npt.NDArray[np.bool_]) -> FloatArray:
    """Return weights that give every kind among some images the same sum."""
    weights = weights.copy()
    for kind in np.unique(kinds[where]):
        chosen = where & (kinds == kind)
        weights[chosen] /= weights[chosen].sum()
    return weights


def drawn(images: Images, balance: Balance, seed: int) -> Images:
    """Return as many images, drawn with replacement by `shares`; the same ones where nothing is balanced."""
    if balance == "none":
        return images
    random = np.random.default_rng(seed)
    chosen = random.choice(len(images), len(images), p=shares(images.records, balance))
    return Images(tuple(images.records[index] for index in chosen), images.store)


def trained_start(study: StudyProtocol, images: Images, source: str, balance: Balance) -> Start:
    """Train a start on all sources but one, and return what it makes of all images. Raises WeightsError, StudyError."""
    import torch

    from melfed.client.training.plain import Trainer
    from melfed.common.model.classifier import Classifier
    from melfed.common.model.inference import pick_device, score
    from melfed.common.study.build import build_study_classifier
    from melfed.simulations.fit_neck import pooled_features

    torch.set_float32_matmul_precision("highest")
    device = pick_device()
    trained, left_out = sides(images, source, study.seed)
    mine = Images(tuple(images.records[index] for index in np.flatnonzero(trained)), images.store)
    model = build_study_classifier(study).to(device)
    trainer = Trainer(model, study, device)
    for number in range(1, study.federation.rounds + 1):
        trainer.train(drawn(mine, balance, seed_for(study.seed, "drawn", source, number)), source, number)
    scores = score(model, images, study.data.image_size, device)
    necked = Classifier(model.backbone, model.trunk, metadata=False, dropout=0.0, neck=1).to(device)
    return Start(pooled_features(necked, images, study.data.image_size, device), scores, trained, left_out)


def kept_start(path: Path, study: StudyProtocol, images: Images, source: str, balance: Balance) -> Start:
    """Return the start in a file, or train it and write the file. Raises as `trained_start`, and DataError."""
    names = np.array([f"{record.source}/{record.image}" for record in images.records])
    made = f"{study.digest} {balance}"
    if path.exists():
        with np.load(path) as file:
            if file["names"].tolist() != names.tolist() or str(file["made"]) != made:
                raise DataError(f"{path}: of other images, or of another way to train; name an empty folder (--out)")
            return Start(file["pooled"], file["scores"], file["trained"], file["left_out"])
    start = trained_start(study, images, source, balance)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".part.npz")
    np.savez(
        whole,
        names=names,
        made=np.array(made),
        pooled=start.pooled,
        scores=start.scores,
        trained=start.trained,
        left_out=start.left_out,
    )
    whole.replace(path)
    return start
