"""The phantom: a data folder of procedurally rendered, dermoscopy-like lesions for the demo and the tests.

All of it is synthetic and stands for no result about skin. Melanomas differ from nevi in distribution alone: every
trait is shifted by less than one standard deviation, atypical nevi and plain melanomas are common, and the camera, the
skin, the hair and the number of photographs are drawn without regard to the class.
"""

import csv
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from melfed.common.data.origin import SYNTHETIC_NOTICE
from melfed.common.errors import DataError, StorageError
from melfed.simulations.phantom.rendering import Camera, LesionTraits, render_lesion

__all__ = [
    "Camera",
    "LesionTraits",
    "PhantomImage",
    "PhantomSpec",
    "cameras",
    "plan_images",
    "render_image",
    "render_lesion",
    "sample_traits",
    "write_phantom",
]

RENDERER = 1  # raised whenever the same spec gives other pixels, so that no old folder is taken for a new one

CLINIC_NAMES = ("north", "south", "east", "west", "harbour", "valley", "lake", "hill")
_NORMAL = NormalDist()
_PHOTOGRAPHS = (0.35, 0.30, 0.20, 0.15)  # shares of patients with 1, 2, 3, 4 pictures
_SAME_LESION = 0.5  # chance that a further picture shows the patient's first lesion again
_FIRST_LESION_SHARE = 0.73  # of all pictures, given the two lines above
_ATYPIA = 0.18  # correlation of a lesion's traits within its class is the square of this

_SITES = {
    "anterior torso": 0.22,
    "posterior torso": 0.27,
    "lower extremity": 0.20,
    "upper extremity": 0.14,
    "head/neck": 0.13,
    "palms/soles": 0.04,
}

# trait: shift of melanoma in standard deviations, offset, lowest, highest; negative values count as 0 (absent)
_DISTRIBUTIONS = {
    "radius": (0.85, -0.40, 0.24, 0.74),
    "elongation": (0.15, 0.0, 0.0, 1.0),
    "asymmetry": (1.05, -0.55, 0.0, 1.0),
    "raggedness": (1.05, -0.55, 0.0, 1.0),
    "edge": (-0.50, 0.25, 0.05, 0.26),
    "pigment": (0.25, 0.10, 0.10, 1.0),
    "dark_brown": (0.30, -0.10, 0.05, 0.80),
    "black": (0.90, -0.45, -0.30, 0.34),
    "red": (0.60, -0.40, -0.30, 0.34),
    "blue_grey": (1.10, -0.85, -0.34, 0.48),
    "white": (0.85, -0.75, -0.34, 0.42),
    "network": (0.0, 0.20, -0.25, 1.0),
    "network_irregularity": (1.0, -0.50, 0.0, 1.0),
    "globules": (0.20, -0.20, -0.40, 0.80),
    "globule_irregularity": (0.70, -0.35, 0.0, 1.0),
}


@dataclass(frozen=True)
class PhantomSpec:
    """What to render: everything that decides the folder's content.

    `clinics` are names, or a number of them; of four, the first has 0.4 of the images, the last 0.1.
    `melanoma_rate` is the share of images that show a melanoma, in every clinic, to the nearest patient.
    Raises DataError for a spec that cannot be rendered.
    """

    clinics: tuple[str, ...] | int
    images: int
    melanoma_rate: float = 0.25
    size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        names = self.names
        if not names or len(set(names)) < len(names) or not all(n.replace("_", "").isalnum() for n in names):
            raise DataError(f"phantom: clinics is {self.clinics!r}; give different names of letters, digits and _")
        least = 2 * len(names) * (len(names) + 1)  # four images for the smallest clinic
        if self.images < least:
            raise DataError(
                f"phantom: {self.images} images are too few for {len(names)} clinics; ask for {least} or more"
            )
        if not 0 < self.melanoma_rate <= 0.6:
            raise DataError(f"phantom: melanoma_rate is {self.melanoma_rate}; choose one above 0 and up to 0.6")
        if not 32 <= self.size <= 1024:
            raise DataError(f"phantom: size is {self.size} pixels; choose 32 to 1024")
        if self.seed < 0:
            raise DataError(f"phantom: seed is {self.seed}; choose 0 or more")

    @property
    def names(self) -> tuple[str, ...]:
        """The clinics' names."""
        if isinstance(self.clinics, int):
            return tuple(CLINIC_NAMES[i] if i < len(CLINIC_NAMES) else f"clinic_{i + 1}" for i in range(self.clinics))
        return self.clinics


@dataclass(frozen=True, slots=True)
class PhantomImage:
    """One picture before it is rendered: the row of the table, and all that its pixels depend on."""

    name: str  # file name
    melanoma: bool
    patient_id: str
    lesion_id: str
    age: int
    sex: str
    site: str
    traits: LesionTraits
    camera: Camera
    photograph: np.random.SeedSequence


def cameras(names: tuple[str, ...], seed: int) -> tuple[Camera, ...]:
    """A camera a clinic; a clinic's camera depends on its place in the list and the seed, not on the others."""
    return tuple(_camera(name, place, seed) for place, name in enumerate(names))


def _camera(name: str, place: int, seed: int) -> Camera:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, place)))

    def spread(low: float, high: float, start: float) -> float:
        """Neighbours in the list lie far apart: multiples of the golden ratio, and a little chance."""
        return low + (high - low) * ((start + place * 0.618 + rng.uniform(-0.05, 0.05)) % 1)

    warm, green = spread(-0.075, 0.075, 0.7), spread(-0.03, 0.03, 0.35)
    return Camera(
        name=name,
        cast=(1 + warm, 1 + green, 1 - warm),
        exposure=spread(0.95, 1.09, 0.5),
        contrast=spread(0.90, 1.18, 0.15),
        blur=spread(1.5, 5.5, 0.0),
        grain=spread(0.8, 3.5, 0.6),
        zoom=spread(0.86, 1.14, 0.8),
        vignette=spread(0.05, 0.35, 0.25),
        field=spread(0.98, 1.75, 0.9),
        ruler_rate=spread(0.0, 0.22, 0.45),
        gel_rate=spread(0.02, 0.30, 0.1),
    )


def sample_traits(rng: np.random.Generator, melanoma: bool, melanin: float, hairiness: float) -> LesionTraits:
    """Draw a lesion of a class on a patient's skin; the class shifts the traits and hides none of them."""
    atypia = rng.normal()
    values = {}
    for trait, (shift, offset, low, high) in _DISTRIBUTIONS.items():
        score = offset + shift * melanoma + _ATYPIA * math.copysign(1, shift) * atypia
        score += math.sqrt(1 - _ATYPIA**2) * rng.normal()
        values[trait] = max(0.0, low + (high - low) * _NORMAL.cdf(score))
    return LesionTraits(structure=int(rng.integers(2**32)), melanin=melanin, hairiness=hairiness, **values)


def plan_images(spec: PhantomSpec) -> list[PhantomImage]:
    """All pictures of a spec, in order; cheap, since none is rendered."""
    names = spec.names
    weights = np.arange(len(names), 0, -1)
    ends = np.rint(np.cumsum(weights / weights.sum()) * spec.images).astype(int)
    plan: list[PhantomImage] = []
    for place, camera in enumerate(cameras(names, spec.seed)):
        plan.extend(_plan_clinic(spec, camera, place, first=len(plan), images=int(ends[place]) - len(plan)))
    return plan


def _plan_clinic(spec: PhantomSpec, camera: Camera, place: int, first: int, images: int) -> Iterator[PhantomImage]:
    """The pictures of one clinic, patient by patient, each patient from its own seed sequence."""
    sequence = np.random.SeedSequence(spec.seed, spawn_key=(1, place))
    rng = np.random.default_rng(sequence)
    counts: list[int] = []
    while sum(counts) < images:
        counts.append(min(int(rng.choice(4, p=_PHOTOGRAPHS)) + 1, images - sum(counts)))
    # A share, not a coin a patient: the smallest clinic must have its melanomas too.
    diseased = max(1, round(len(counts) * spec.melanoma_rate / _FIRST_LESION_SHARE))
    with_melanoma = set(rng.permutation(len(counts))[:diseased].tolist())
    number = first
    for patient, (count, seeds) in enumerate(zip(counts, sequence.spawn(len(counts)), strict=True)):
        patient_id = f"{camera.name}_p{patient:05d}"
        for row in _plan_patient(camera, patient_id, count, patient in with_melanoma, seeds):
            yield PhantomImage(f"synthetic_{number:06d}.jpg", *row)
            number += 1


_Row = tuple[bool, str, str, int, str, str, LesionTraits, Camera, np.random.SeedSequence]


def _plan_patient(
    camera: Camera, patient_id: str, count: int, diseased: bool, seeds: np.random.SeedSequence
) -> Iterator[_Row]:
    """A patient's pictures: the first lesion, the melanoma if there is one, again or other lesions, all nevi."""
    rng = np.random.default_rng(seeds)
    melanin = float(rng.beta(1.3, 3.2))
    hairiness = float(rng.beta(1.2, 2.2))
    age = 5 * round(float(np.clip(rng.normal(53 if diseased else 46, 15), 16, 90)) / 5)
    sex = "male" if rng.random() < 0.52 else "female"
    lesions: list[tuple[LesionTraits, str]] = []
    first = int(rng.integers(4))  # else the lesion's number would tell that it is no melanoma
    for photograph in seeds.spawn(count):
        if not lesions or rng.random() >= _SAME_LESION:
            traits = sample_traits(rng, diseased and not lesions, melanin, hairiness)
            lesions.append((traits, str(rng.choice(list(_SITES), p=list(_SITES.values())))))
            shown = len(lesions) - 1
        else:
            shown = 0
        traits, site = lesions[shown]
        melanoma = diseased and shown == 0
        yield melanoma, patient_id, f"{patient_id}_l{(first + shown) % 4}", age, sex, site, traits, camera, photograph


def render_image(image: PhantomImage, size: int) -> NDArray[np.uint8]:
    """The picture's RGB pixels (size, size, 3); the same bytes whenever, wherever and in whatever order."""
    return render_lesion(image.traits, image.camera, size, np.random.default_rng(image.photograph))


def write_phantom(root: Path, spec: PhantomSpec, progress: Callable[[int, int], None] | None = None) -> Path:
    """Render a phantom into the data folder `root`, or leave the one that is there if it is the same; return `root`.

    The folder holds `metadata.csv` in melfed's own format, `images/`, `phantom.json` (the spec) and `SYNTHETIC.txt`.
    It appears whole or not at all. `progress` is called with the images written so far and their total.
    Raises DataError where `root` holds something else, StorageError where it cannot be written.
    """
    root = Path(root)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        _require_same(root, spec)
        return root
    partial = root.parent / f".{root.name}.{os.getpid()}.partial"
    try:
        (partial / "images").mkdir(parents=True)
        _write_content(partial, spec, progress)
        partial.replace(root)
    except OSError as error:
        raise StorageError(f"{root}: cannot write the phantom ({error.strerror or error}); nothing was left") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def _description(spec: PhantomSpec) -> dict[str, object]:
    return {"synthetic": True, "renderer": RENDERER, **asdict(spec), "clinics": list(spec.names)}


def _require_same(root: Path, spec: PhantomSpec) -> None:
    """Raise DataError unless the folder is a whole phantom of this spec."""
    advice = "choose another folder or remove this one"
    try:
        found = json.loads((root / "phantom.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{root}: exists and is no phantom; {advice}") from None
    if found != _description(spec):
        raise DataError(f"{root}: holds a phantom of another spec or version; {advice}")
    if sum(1 for _ in root.glob("images/synthetic_*.jpg")) != spec.images or not (root / "metadata.csv").is_file():
        raise DataError(f"{root}: the phantom has lost some of its files; {advice}")


def _write_content(folder: Path, spec: PhantomSpec, progress: Callable[[int, int], None] | None) -> None:
    plan = plan_images(spec)
    columns = ("image", "target", "diagnosis", "patient_id", "lesion_id", "age", "sex", "site", "source")
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        for i in plan:
            person = (i.patient_id, i.lesion_id, i.age, i.sex, i.site, f"phantom_{i.camera.name}")
            table.writerow((f"images/{i.name}", int(i.melanoma), "mel" if i.melanoma else "nv", *person))
    for done, image in enumerate(plan, start=1):
        picture = Image.fromarray(render_image(image, spec.size))
        comment = b"synthetic: rendered by melfed's phantom, not a photograph"
        picture.save(folder / "images" / image.name, quality=92, subsampling=0, comment=comment)
        if progress is not None:
            progress(done, len(plan))
    (folder / "phantom.json").write_text(json.dumps(_description(spec), indent=2) + "\n", encoding="utf-8")
    (folder / SYNTHETIC_NOTICE).write_text(
        "All pictures in this folder are SYNTHETIC.\n\n"
        "melfed's phantom rendered them from random numbers (the spec is in phantom.json). They show no patient and\n"
        "no real lesion; patients, ages, sexes, sites and diagnoses in metadata.csv are invented. The folder serves\n"
        "demonstrations and tests of the software. A model trained or tested on it says nothing about melanoma.\n",
        encoding="utf-8",
    )
