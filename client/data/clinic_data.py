"""A clinic's own data, as its worker sees them: three parts, never mixed."""

import hmac
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from melfed.client.data.split import Part
from melfed.common.data.dataset import Images
from melfed.common.data.images.links import Links
from melfed.common.data.images.store import ImageStore
from melfed.common.data.records import LesionRecord

PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class ClinicData:
    """Where a clinic's images are and which belong to which part. Small enough to be sent to another process.

    `population` is everything that the clinic has, whatever a study takes of it; empty where that is the parts
    themselves (simulation). `links` says which symbolic links of the folder are followed.
    """

    name: str
    root: Path
    cache: Path
    image_size: int
    train: tuple[LesionRecord, ...]
    validation: tuple[LesionRecord, ...]
    test: tuple[LesionRecord, ...]
    population: tuple[LesionRecord, ...] = ()
    links: Links = "inside"

    def load(self, part: Part) -> Images:
        """Return one part with its decoded images (the cache must hold them)."""
        return load_part([self], part)


def load_part(clinics: Sequence[ClinicData], part: Part) -> Images:
    """Return one part of clinics that share a data folder and a cache, in the clinics' order."""
    records: tuple[LesionRecord, ...] = tuple(record for clinic in clinics for record in getattr(clinic, part))
    place = clinics[0]
    store = ImageStore.open(
        place.cache, place.root, [record.image for record in records], place.image_size, place.links
    )
    return Images(records, store)


def fingerprint(data: ClinicData, key: bytes) -> str:
    """Return a digest of which images, of whom, a clinic has, however they are divided into parts.

    A ledger is of one such data set: budgets of another cannot be mixed with it. All studies of a clinic share its
    ledger, so what depends on the study (which images it takes, which diagnoses are positive) does not count where the
    whole population is known. The clinic's secret key keeps others from testing guesses about its patients against what
    a ledger shows (HMAC-SHA-256, 64 hexadecimal digits).
    """
    if data.population:
        return population_fingerprint(data.population, key)
    return _fingerprint([record for part in PARTS for record in getattr(data, part)], key)


def population_fingerprint(population: Sequence[LesionRecord], key: bytes) -> str:
    """Return the same digest of everything that a clinic has."""
    return _fingerprint([replace(record, target=0) for record in population], key)


def _fingerprint(records: Sequence[LesionRecord], key: bytes) -> str:
    records = sorted(records, key=lambda record: record.image)
    text = json.dumps([asdict(record) for record in records], sort_keys=True, ensure_ascii=True)
    return hmac.new(key, text.encode(), "sha256").hexdigest()
