"""What makes a good public start, by leaving out one public source after the other.

Each start is trained on all sources but one; each neck is made of its features. On the source that was left out are
judged the network, the public head behind the neck, and a head as a private study trains it, on own test parts and with
as much noise as so many clinics of so many patients have. Choose by this, and not by the data of the private study.

    python -m melfed.simulations.benchmarks.public_start STUDY --data DIR --out DIR [--batch SOURCE/NAME=FIRST:LAST...]
    [--leave-out SOURCE...] [--start NAME:KEY=VALUE,balance=BALANCE...] [--neck KEY=VALUE,KEY=VALUE...]
    [--epsilon E...] [--patients N...] [--clinics K] [--draws N] [--no-told] [--seed S...]
    [--set KEY.PATH=VALUE...] [--json]

What a start makes of the images is kept in DIR, so that other necks take seconds.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from melfed.common.data.dataset import Images
from melfed.common.errors import StudyError
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.benchmarks.public_start.judging import NOT_TOLD, Federation, auroc, private_auroc, source_told
from melfed.simulations.benchmarks.public_start.necks import FittedNeck, NeckWay, fitted_neck, needed, spectrum_of
from melfed.simulations.benchmarks.public_start.tables import Judged, table
from melfed.simulations.benchmarks.public_start.training import (
    FloatArray,
    Renamed,
    Start,
    StartWay,
    kept_start,
    public_images,
)


@dataclass(frozen=True)
class Judging:
    """What necks and private heads are tried.

    Attributes:
        positive_weight: of a melanoma in the losses of heads, whatever a start is trained with.
        necks: each is judged behind each start.
        federations: whose noise a private head has.
        draws: of that noise.
        told: whether it is judged how well features tell the source, which takes longest.
    """

    positive_weight: float
    necks: tuple[NeckWay, ...]
    federations: tuple[Federation, ...]
    draws: int
    told: bool = True


def judged(
    start: Start, images: Images, study: StudyProtocol, name: str, source: str, judging: Judging
) -> Iterator[Judged]:
    """Yield how good each neck behind a start is for the source that was left out."""
    for way, neck in _necks(start, images, judging):
        scores, told = neck.logits(start.pooled), source_told(neck, start, images) if judging.told else NOT_TOLD
        yield Judged(
            start=name,
            neck=str(way),
            source=source,
            seed=study.seed,
            network=_auroc(images, start.scores, start.left_out),
            public=_auroc(images, scores, start.left_out),
            kept=_auroc(images, scores, ~(start.trained | start.left_out)),
            told=told.among,
            chance=told.chance,
            told_left_out=told.left_out,
            private=_private(neck, start, images, judging, study.seed),
        )


def _necks(start: Start, images: Images, judging: Judging) -> Iterator[tuple[NeckWay, FittedNeck]]:
    """Yield each neck, made of the images that the start learnt from."""
    mine = np.flatnonzero(start.trained)
    records, pooled = [images.records[index] for index in mine], start.pooled[mine]
    spectra = {
        balance: spectrum_of(pooled, records, balance, needed(judging.necks, records))
        for balance in dict.fromkeys(way.balance for way in judging.necks)
    }
    for way in judging.necks:
        spectrum = spectra[way.balance]
        yield way, fitted_neck(pooled, start.scores[mine], records, spectrum, way, judging.positive_weight)


def _private(neck: FittedNeck, start: Start, images: Images, judging: Judging, seed: int) -> dict[str, float]:
    """Return the AUROC of a private head on the source that was left out, for each federation."""
    mine = np.flatnonzero(start.left_out)
    records = [images.records[index] for index in mine]
    return {
        str(each): private_auroc(neck, start.pooled[mine], records, each, judging.positive_weight, judging.draws, seed)
        for each in judging.federations
    }


def _auroc(images: Images, scores: FloatArray, where: npt.NDArray[np.bool_]) -> float:
    return auroc(images.targets[where], scores[where])


def left_out_sources(images: Images, wanted: Sequence[str]) -> list[str]:
    """Return the sources to leave out: those that are named, or all with both classes.

    Raises:
        StudyError: a named source has no images, or one class alone; or fewer than two sources are there.
    """
    classes: dict[str, set[int]] = {}
    for record in images.records:
        classes.setdefault(record.source, set()).add(record.target)
    both = sorted(name for name, found in classes.items() if len(found) > 1)
    if wrong := [name for name in wanted if name not in both]:
        raise StudyError(f"--leave-out {wrong[0]}: no source with both classes; there are {', '.join(both)}")
    if len(classes) < 2:
        raise StudyError("one source alone is there, so nothing is left where it is left out; divide it with --batch")
    return list(wanted) or both


def main(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY", help="A public study with a neck (mode: central).")],
    data: Annotated[Path, typer.Option(help="Folder of labelled images.")],
    out: Annotated[Path, typer.Option(help="Where starts are kept.")],
    batches: Annotated[list[str], typer.Option("--batch", help="Part of a source, by archive numbers.")] = [],  # noqa: B006
    wanted: Annotated[list[str], typer.Option("--leave-out", help="Sources, one after the other.")] = [],  # noqa: B006
    starts: Annotated[list[str], typer.Option("--start", help="How a start is trained.")] = ["plain"],  # noqa: B006
    necks: Annotated[list[str], typer.Option("--neck", help="How its neck is made.")] = ["features=64"],  # noqa: B006
    epsilons: Annotated[list[float], typer.Option("--epsilon", help="inf: no noise.")] = [1.0, 3.0, 8.0],  # noqa: B006
    patients: Annotated[list[int], typer.Option("--patients", help="Of each clinic.")] = [1500],  # noqa: B006
    clinics: Annotated[int, typer.Option(min=1, help="Of the federation.")] = 4,
    draws: Annotated[int, typer.Option(min=1, help="Of the noise, for each own test part.")] = 4,
    told: Annotated[bool, typer.Option(help="How well features tell the source.")] = True,
    seeds: Annotated[list[int], typer.Option("--seed", help="Of training, and of all else.")] = [0],  # noqa: B006
    overrides: Annotated[list[str], typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a key.")] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a row a source.")] = False,
) -> None:
    """Compare starts and necks on public sources that they have not seen."""
    from melfed.common.study.file import read_study

    federations = tuple(Federation(number, clinics, epsilon) for number, epsilon in product(patients, epsilons))
    weight = read_study(study_file, overrides).training.positive_weight
    judging = Judging(weight, tuple(NeckWay.read(neck) for neck in necks), federations, draws, told)
    ways, parts = [StartWay.read(start) for start in starts], [Renamed.read(batch) for batch in batches]
    rows = list[Judged]()
    for way, seed in product(ways, seeds):
        study = read_study(study_file, [*overrides, *way.changes], seed)
        images = public_images(study, data, parts)
        for source in left_out_sources(images, wanted):
            file = out / f"{way.name}-{source}-{seed}.npz"
            start = kept_start(file, study, images, source, way.balance)
            rows.extend(judged(start, images, study, way.name, source, judging))
    print(json.dumps([asdict(row) for row in rows], indent=2) if as_json else "\n".join(table(rows)))


if __name__ == "__main__":
    typer.run(main)
