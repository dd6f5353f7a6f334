"""From a deployed clinic's data folder to what its worker needs for a study: read, decode, leave out, divide.

A clinic that is named as a virtual clinic, and has the same images under the same names, gets the same parts as that
one has in a simulation of the study (`client.parts`).
"""

import logging
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from client.config import ClinicConfig
from client.dataset import ClinicData
from client.parts import collect_groups, objection, split_clinic
from common.data.files import table_stamp
from common.data.records import LesionRecord, read_table, select_sources
from common.data.tables import short_list
from common.errors import DataError
from common.image_store import ImageStore
from common.protocol import StudyProtocol
from common.seeds import seed_for

Progress = Callable[[int, int], None]
MELANOMA = ("mel",)

_log = logging.getLogger(__name__)


def clinic_data(config: ClinicConfig, study: StudyProtocol, progress: Progress | None = None) -> ClinicData:
    """Return a clinic's images for a study, decoded and divided into train, validation and test.

    Args:
        config: the clinic's: where its images are, which sources are its own, and where decoded images are kept.
        study: which of those sources it takes, what is positive, which image size and which parts.
        progress: called with (decoded, all).

    Raises:
        PolicyError: the configuration names no data.
        DataError: the folder cannot be used, or too few usable images are left for the study; says what to do.
        StorageError: the cache cannot be written.
    """
    own = _own_records(config, study.data.positive)
    records = _taken(own, study.data.sources)
    root, size = config.data_folder.resolve(), study.data.image_size
    names = [record.image for record in records]
    store = ImageStore.build(config.cache, root, names, size, progress=progress)
    usable = tuple(record for record in records if record.image in store)
    if not usable:
        raise DataError(
            f"{root}: none of {len(names)} images can be used; the first, {store.left_out[0].image}: "
            f"{store.left_out[0].reason}"
        )
    if store.left_out:
        # Without their names: `melfed-sim data FOLDER` lists them to whoever may see the folder.
        _log.warning("%d of %d images cannot be used and are left out", len(store.left_out), len(names))
    split = split_clinic(config.name, collect_groups(usable), study.partition, seed_for(study.seed, "partition"))
    if reason := objection(split, usable, study.partition):
        raise DataError(
            f"{root}: {reason}: add images, see in data.sources that all of this clinic's are taken, or ask the "
            "coordinator for another partition.minimum_images or data.positive"
        )
    # What a table says too little of for other diagnoses is the clinic's all the same.
    everything = own if tuple(study.data.positive) == MELANOMA else population(config)
    train, validation, test = (
        tuple(usable[index] for index in part) for part in (split.train, split.validation, split.test)
    )
    return ClinicData(config.name, root, config.cache, size, train, validation, test, population=everything)


def population(config: ClinicConfig) -> tuple[LesionRecord, ...]:
    """Return everything that the clinic has, which is what its ledger is of.

    Raises:
        PolicyError: the configuration names no data.
        DataError: the folder has no table that can be used.
    """
    return _own_records(config, MELANOMA)


def stamp(config: ClinicConfig) -> str:
    """Return a digest that is another one as soon as the clinic's table or the names of its images have changed.

    Raises:
        PolicyError: the configuration names no data.
        DataError: the folder cannot be read.
    """
    return table_stamp(config.data_folder.resolve())


def study_records(config: ClinicConfig, study: StudyProtocol) -> tuple[LesionRecord, ...]:
    """Return the rows of the clinic's table that a study takes, usable or not.

    Raises:
        PolicyError: the configuration names no data.
        DataError: the folder has no table, or no row is the clinic's own and the study's.
    """
    return _taken(_own_records(config, study.data.positive), study.data.sources)


def _own_records(config: ClinicConfig, positive: Sequence[str]) -> tuple[LesionRecord, ...]:
    """Return the rows of the clinic's table that are its own, whatever the study takes of them."""
    table = read_table(config.data_folder.resolve(), positive)
    return tuple(select_sources(table.records, config.data.sources))


def _taken(records: Sequence[LesionRecord], sources: Literal["all"] | Sequence[str]) -> tuple[LesionRecord, ...]:
    """Return the records of those of a study's sources that are here: the others are other clinics'."""
    if sources == "all":
        return tuple(records)
    known = sorted({record.source for record in records})
    here = [item for item in sources if _matches(item.removeprefix("!"), known)]
    named = [item for item in sources if not item.startswith("!")]
    if named and not any(item in here for item in named):
        raise DataError(
            f"the study takes sources {short_list(named)}, and this clinic's are {short_list(known)}: see source in "
            "the table and data.sources in clinic.yaml"
        )
    return select_sources(records, here) if here else tuple(records)


def _matches(item: str, known: Sequence[str]) -> bool:
    return any(name == item or fnmatchcase(name, item) for name in known)
