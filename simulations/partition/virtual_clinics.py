"""From a folder of images to virtual clinics: read, decode, leave out what cannot be used, divide."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from melfed.client.data.clinic_data import ClinicData
from melfed.client.privacy.units import privacy_units
from melfed.common.data.images.duplicates import DuplicateGroup, with_duplicates
from melfed.common.data.images.links import Links
from melfed.common.data.images.store import ImageStore, LeftOut
from melfed.common.data.origin import is_synthetic
from melfed.common.data.records import (
    LesionRecord,
    group_ids,
    group_kind,
    read_table,
    select_image_types,
    select_sources,
)
from melfed.common.data.tables.rows import ReadOptions
from melfed.common.errors import DataError
from melfed.common.progress import Progress
from melfed.common.seeds import seed_for
from melfed.common.study.protocol import PhantomSection, StudyProtocol
from melfed.server.runs.summary import DataSummary, LeftOutImage
from melfed.simulations.partition.partition import ClinicSplit, partition
from melfed.simulations.phantom.dataset import PhantomSpec, write_phantom


@dataclass(frozen=True)
class VirtualClinics:
    """A data folder, divided."""

    root: Path
    layout: str
    records: tuple[LesionRecord, ...]
    splits: tuple[ClinicSplit, ...]
    left_out: tuple[LeftOut, ...]
    clinics: tuple[ClinicData, ...]
    duplicates: tuple[DuplicateGroup, ...] = ()
    """Images that are one picture, for the people whose data it is."""

    def summary(self) -> DataSummary:
        """Return what the run's summary says of the data: of the images that are in some clinic."""
        used = [self.records[i] for split in self.splits for i in (*split.train, *split.validation, *split.test)]
        return DataSummary(
            folder=self.root.name,
            layout=self.layout,
            images=len(used),
            melanomas=sum(record.target for record in used),
            groups=len(set(group_ids(used))),
            groups_by=group_kind(used),
            synthetic=is_synthetic(self.root),
            left_out=tuple(LeftOutImage(image=item.image, reason=item.reason) for item in self.left_out),
        )


def phantom_folder(
    study: StudyProtocol, section: PhantomSection, cache: Path, progress: Progress | None = None
) -> Path:
    """Return the folder of a study's synthetic lesions, rendered the first time."""
    spec = PhantomSpec(section.clinics, section.images, section.melanoma_rate, study.data.image_size, study.seed)
    name = f"{spec.clinics}x{spec.images}-{spec.melanoma_rate:g}-{spec.size}px-{spec.seed}"
    return write_phantom(cache / "phantom" / name, spec, progress)


def divide(
    study: StudyProtocol,
    data: Path,
    cache: Path,
    progress: Progress | None = None,
    options: ReadOptions | None = None,
) -> VirtualClinics:
    """Make a study's virtual clinics from a data folder.

    Args:
        study: says which sources, which partition, which image size.
        data: the folder.
        cache: where decoded images are kept.
        progress: called with (decoded, all).
        options: what a person says about the folder that its tables do not say.

    Raises:
        DataError: the folder cannot be used, a diagnosis is not in the vocabulary, it does not name what the study
            protects, or a clinic would have too few usable images.
        StudyError: the partition asks for more clinics than there are.
    """
    # Worker processes may stand elsewhere, and "." has no name for the report.
    data, cache = data.resolve(), cache.resolve()
    types = study.data.image_type
    options = (options or ReadOptions()).asking_for(types)
    table = read_table(data, study.data.positive, options)
    selected = select_image_types(select_sources(table.records, study.data.sources), types)
    if not selected:
        raise DataError(f"{data}: no image is of the kinds that data.image_type asks for; ask for others, or for all")
    names = [record.image for record in selected]
    store = ImageStore.build(cache, table.root, names, study.data.image_size, progress=progress, links=options.links)
    records = tuple(record for record in selected if record.image in store)
    if not records:
        first = store.left_out[0]
        raise DataError(f"{data}: none of {len(names)} images can be used; the first, {first.image}: {first.reason}")
    duplicates = store.duplicates()
    if study.privacy is None:  # with privacy, nobody's group may follow from another's pictures
        records = with_duplicates(records, duplicates)
    _need_both_classes(records, study.data.positive, data)
    if study.model.metadata:
        _need_metadata(records, data)
    unit = study.privacy.unit if study.privacy else None
    if unit is not None:
        privacy_units(records, unit)
    splits = partition(records, study.partition, seed_for(study.seed_of("partition"), "partition"), unit)
    # Largest first: Flower serves nodes in this order, and the longest training should not start last.
    largest_first = sorted(splits, key=lambda split: (-len(split.train), split.name))
    clinics = tuple(
        _clinic(split, records, table.root, cache, study.data.image_size, options.links) for split in largest_first
    )
    return VirtualClinics(table.root, table.layout, records, splits, store.left_out, clinics, duplicates)


def _need_both_classes(records: Sequence[LesionRecord], positive: Sequence[str], data: Path) -> None:
    positives = sum(record.target for record in records)
    if 0 < positives < len(records):
        return
    found = ", ".join(sorted({record.diagnosis or "no diagnosis" for record in records}))
    which = "each is" if positives else "none is"
    raise DataError(
        f"{data}: of {len(records)} images {which} positive (data.positive: {', '.join(positive)}; diagnoses there: "
        f"{found}); choose other data.sources or data.positive"
    )


def _need_metadata(records: Sequence[LesionRecord], data: Path) -> None:
    if not any(record.age is not None or record.sex or record.site for record in records):
        raise DataError(
            f"{data}: no image has an age, a sex or a site, so model.metadata: true would have no effect; leave it "
            "out, or give the table such a column (melfed-sim data shows what was understood)"
        )


def _clinic(
    split: ClinicSplit, records: tuple[LesionRecord, ...], root: Path, cache: Path, size: int, links: Links
) -> ClinicData:
    train, validation, test = (tuple(records[i] for i in part) for part in (split.train, split.validation, split.test))
    return ClinicData(split.name, root, cache, size, train, validation, test, links=links)
