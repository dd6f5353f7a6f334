"""Clinics that differ by one patient: real folders (a table, small pictures), a real `clinic.yaml`, a real state."""

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from melfed.client.config.clinic import ClinicConfig, read_clinic
from melfed.client.config.folders import prepare_worker
from melfed.client.data.split import Part, part_of
from melfed.common.data.identity import normal_id, scoped_id
from melfed.common.study.protocol import PartitionSpec

SIZE = 32
NAME = "north"
SECRET = bytes(range(32))
"""The clinic's key: the same in both worlds, as it is drawn whatever patients there are."""
SPEC = PartitionSpec(validation=0.25, test=0.25, minimum_images=2)
COLUMNS = ("image", "target", "diagnosis", "patient_id", "lesion_id", "dup_group", "age", "sex", "site", "source")


@dataclass(frozen=True)
class Picture:
    """A row of the table and the file that it names.

    Attributes:
        name: of the file.
        look: seed of its pixels; pictures of one look are the same bytes.
        shade: added to every pixel, so that two of one look are nearly the same.
        cells: what the row holds beside the image; a column that is missing here is empty.
        content: the file's bytes in place of a picture; None: the picture.
        absent: there is no such file.
        more: cells behind the last column.
    """

    name: str
    look: int
    shade: int = 0
    cells: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    absent: bool = False
    more: str = ""

    def line(self) -> str:
        """Return the row, as CSV."""
        return ",".join([self.name, *(self.cells.get(column, "") for column in COLUMNS[1:])]) + self.more

    def bytes(self) -> bytes:
        """Return the file's content."""
        return _png(self.look, self.shade) if self.content is None else self.content


@functools.cache
def _png(look: int, shade: int) -> bytes:
    random = np.random.default_rng(look)
    # Coarse structure and fine, dark and light, as lesions have; the last is nearly white.
    coarse = np.kron(random.integers(0, 200, (4, 4, 3)), np.ones((SIZE // 4, SIZE // 4, 1), int))
    pixels = np.clip(coarse + random.integers(0, 55, (SIZE, SIZE, 3)) + shade, 0, 255)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG", compress_level=1)
    return file.getvalue()


@dataclass(frozen=True)
class Patient:
    """Whom two worlds differ by, or whom both share."""

    name: str
    pictures: tuple[Picture, ...]

    @property
    def unit(self) -> str:
        """The unit that the patient is: an id is its source's own, in the one form of all its spellings."""
        return f"patient:{scoped_id(self.pictures[0].cells['source'], normal_id(self.name) or '')}"


def patient(name: str, looks: Sequence[int], *targets: int, **cells: str) -> Patient:
    """Return a patient with a picture for each look; targets in their order, the last one for all that follow."""
    pictures = []
    for place, look in enumerate(looks):
        target = targets[min(place, len(targets) - 1)]
        diagnosis = {"diagnosis": "mel" if target else "nv"}
        facts = {"age": str(20 + look % 60), "sex": "female" if look % 2 else "male", "site": "torso"}
        row = {"target": str(int(target)), "patient_id": name, "source": "here", **diagnosis, **facts, **cells}
        pictures.append(Picture(f"{name}_{place}.png", look, cells=row))
    return Patient(name, tuple(pictures))


def crowd(size: int, seed: int = 0) -> tuple[Patient, ...]:
    """Return patients that both worlds share; every third has a melanoma, every fourth two pictures."""
    return tuple(
        patient(f"P{number}", [1000 * seed + 10 * number + k for k in range(1 + (number % 4 == 0))], number % 3 == 0)
        for number in range(size)
    )


def in_part(part: Part, make: Callable[[str], Patient], first: str = "X", spec: PartitionSpec = SPEC) -> Patient:
    """Return a patient whose id puts it into a part, and begins with some letters."""
    candidates = (make(f"{first}{number}") for number in range(1000))
    return next(who for who in candidates if part_of(who.unit, NAME, spec, SECRET) == part)


def renamed(who: Patient, **cells: str) -> Patient:
    """Return the patient with cells of all rows replaced."""
    return replace(who, pictures=tuple(replace(p, cells={**p.cells, **cells}) for p in who.pictures))


def write_clinic(folder: Path, patients: Sequence[Patient], **sections: object) -> ClinicConfig:
    """Write a clinic's kit, with data of these patients, and the state that a worker begins with.

    Args:
        folder: the kit; new.
        patients: in the order of their rows; of two that share a picture's name, the first one's file counts.
        sections: of `clinic.yaml`, replacing what stands here.
    """
    data = folder / "data"
    data.mkdir(parents=True)
    lines = [",".join(COLUMNS)]
    for picture in (picture for who in patients for picture in who.pictures):
        lines.append(picture.line())
        if not picture.absent and not (data / picture.name).exists():
            (data / picture.name).write_bytes(picture.bytes())
    (data / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = {
        "name": NAME,
        "coordinator": {"host": "127.0.0.1", "port": 9},
        "data": {"folder": "data"},
        "resources": {"device": "cpu"},
        "health_port": None,
        "metrics_port": None,
        # As it comes, but for how much may be asked: a hole must not be hidden by an empty budget.
        "policy": {"epsilon": 100.0, "studies": "any", "runs": 20},
    }
    (folder / "clinic.yaml").write_text(yaml.safe_dump({**content, **sections}), encoding="utf-8")
    config = read_clinic(folder / "clinic.yaml")
    prepare_worker(config)
    key = config.ledger.with_suffix(".key")
    key.write_bytes(SECRET)
    key.chmod(0o600)
    return config
