"""From a deployed clinic's data folder to what its worker needs for a study: read, decode, leave out, divide.

In a private study nothing is refused for what the table holds, since a refusal would tell about patients: rows that
cannot be used are left out, each on its own account, and what is left may be nothing. What the clinic's own people
should know of its data, `melfed-client doctor` and `approve` show them.

The clinic's secret decides which part a patient is in (`melfed.client.data.split`).
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Literal

from melfed.client.config.clinic import ClinicConfig, SameSection
from melfed.client.data.clinic_data import ClinicData
from melfed.client.data.split import objection, split_clinic
from melfed.client.ledger.key import ledger_key
from melfed.common.data.identity import normal_id, scoped_id
from melfed.common.data.images.duplicates import with_duplicates
from melfed.common.data.images.files import table_stamp
from melfed.common.data.images.store import ImageStore
from melfed.common.data.records import LesionRecord, read_table, select_image_types
from melfed.common.data.tables.tables import short_list
from melfed.common.errors import DataError
from melfed.common.progress import Progress
from melfed.common.study.protocol import StudyProtocol

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
        DataError: the folder cannot be used; of a study without privacy also: too few usable images are left for it.
            Says what to do.
        LedgerError: the clinic's secret is missing.
        StorageError: the cache cannot be written.
    """
    own = _own_records(config, study.data.positive, strict=study.privacy is None)
    records = _taken(own, study.data.sources) if study.privacy is None else taken_each(own, study.data.sources)
    records = select_image_types(records, study.data.image_type)
    root, size = config.data_folder.resolve(), study.data.image_size
    names = [record.image for record in records]
    store = ImageStore.build(config.cache, root, names, size, progress=progress)
    usable = tuple(record for record in records if record.image in store)
    if store.left_out:
        # Without their names: `melfed-sim data FOLDER` lists them to whoever may see the folder.
        _log.warning("%d of %d images cannot be used and are left out", len(store.left_out), len(names))
    if study.privacy is None:  # with privacy, nobody's group may follow from another's pictures
        usable = with_duplicates(usable, store.duplicates())
    unit = study.privacy.unit if study.privacy else None
    split = split_clinic(config.name, usable, study.partition, ledger_key(config.ledger), unit)
    if study.privacy is None and (reason := objection(split, study.partition)):
        raise DataError(
            f"{root}: {reason}: add images, see in data.sources that all of this clinic's are taken, or ask the "
            "coordinator for another partition.minimum_images or data.positive"
        )
    # What a table says too little of for other diagnoses is the clinic's all the same.
    everything = own if _is_all(study) else population(config)
    train, validation, test = (
        tuple(usable[index] for index in part) for part in (split.train, split.validation, split.test)
    )
    return ClinicData(config.name, root, config.cache, size, train, validation, test, population=everything)


def population(config: ClinicConfig) -> tuple[LesionRecord, ...]:
    """Return everything that the clinic has, which is what its ledger is of.

    No row is refused: what cannot be used is left out, each row by itself alone.

    Raises:
        PolicyError: the configuration names no data.
        DataError: the folder has no table that can be read.
    """
    return _own_records(config, MELANOMA, strict=False)


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
    own = _own_records(config, study.data.positive, strict=study.privacy is None)
    return select_image_types(_taken(own, study.data.sources), study.data.image_type)


def taken_each(records: Sequence[LesionRecord], sources: Literal["all"] | Sequence[str]) -> tuple[LesionRecord, ...]:
    """Return the records whose own source is one that is asked for: no record decides about another.

    Args:
        records: any.
        sources: as `melfed.common.data.records.select_sources`; a name that no record has is another clinic's.
    """
    if sources == "all":
        return tuple(records)
    wanted = [item for item in sources if not item.startswith("!")]
    unwanted = [item.removeprefix("!") for item in sources if item.startswith("!")]
    return tuple(
        record
        for record in records
        if (not wanted or _named(record.source, wanted)) and not _named(record.source, unwanted)
    )


def as_one(records: Sequence[LesionRecord], same: SameSection) -> tuple[LesionRecord, ...]:
    """Return the records with the ids that the clinic says mean one replaced by the first of each list.

    An id is listed as the table writes it, in any of its spellings, and means that patient (lesion) of whatever source.
    """
    patients, lesions = _firsts(same.patients), _firsts(same.lesions)
    if not patients and not lesions:
        return tuple(records)
    return tuple(
        replace(
            record,
            patient_id=_first(patients, record.patient_id, record.source),
            lesion_id=_first(lesions, record.lesion_id, record.source, record.patient_id),
        )
        for record in records
    )


def _firsts(lists: Sequence[Sequence[str]]) -> dict[str, str]:
    """The first id of the list that an id is in, all in their normal form."""
    normal = [[normal_id(name) or name for name in names] for names in lists]
    return {name: names[0] for names in normal for name in names}


def _first(firsts: dict[str, str], name: str | None, *scopes: str | None) -> str | None:
    """The id that stands for a record's, which may be scoped by its source or its patient."""
    if name is None:
        return None
    if name in firsts:
        return firsts[name]
    return next(
        (first for own, first in firsts.items() for scope in scopes if scope and scoped_id(scope, own) == name), name
    )


def _is_all(study: StudyProtocol) -> bool:
    """Whether what is read for a study is read as the population is."""
    return study.privacy is not None and tuple(study.data.positive) == MELANOMA


def _own_records(config: ClinicConfig, positive: Sequence[str], strict: bool) -> tuple[LesionRecord, ...]:
    """Return the rows of the clinic's table that are its own, whatever the study takes of them.

    Args:
        config: the clinic's.
        positive: the diagnoses that are positives.
        strict: whether a row that cannot be used is an error: not in a private study, see the module.
    """
    table = read_table(config.data_folder.resolve(), positive, config.data.read_options(), strict)
    return as_one(taken_each(table.records, config.data.sources), config.data.same)


def _taken(records: Sequence[LesionRecord], sources: Literal["all"] | Sequence[str]) -> tuple[LesionRecord, ...]:
    """Return the records of those of a study's sources that are here: the others are other clinics'."""
    taken = taken_each(records, sources)
    if not taken and sources != "all":
        known = sorted({record.source for record in records})
        raise DataError(
            f"the study takes sources {short_list(list(sources))}, and this clinic's are {short_list(known)}: see "
            "source in the table and data.sources in clinic.yaml"
        )
    return taken


def _named(source: str, items: Sequence[str]) -> bool:
    # A name may hold brackets, which mean something else in a pattern.
    return any(source == item or fnmatchcase(source, item) for item in items)
