"""The doctor's look at a clinic's data: folder, table, diagnoses, images, melanomas, patients.

It tells counts and the words of diagnoses, never the name of an image or a patient.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Final

from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import may_read, owner
from melfed.client.config.policy import ClinicPolicy
from melfed.client.daemon import systemd_units
from melfed.client.data.split import objection, simulation_key, split_clinic
from melfed.client.privacy.units import privacy_units
from melfed.common.data.decisions import UnknownWords
from melfed.common.data.images.containers import file_of
from melfed.common.data.images.decoder import ImageProblem, decode, decode_bytes, read_file
from melfed.common.data.images.duplicates import count_duplicates, find_duplicates, signature
from melfed.common.data.images.files import TABLE_DEPTH, TABLE_SUFFIXES
from melfed.common.data.records import LesionRecord, LesionTable, group_ids, select_sources
from melfed.common.data.tables.tables import open_tables
from melfed.common.data.understood import Understanding, read_to_show, understand
from melfed.common.doctor.steps import Finding, Step, bad, doubtful, good
from melfed.common.errors import DataError
from melfed.common.study.protocol import PartitionSpec

SAMPLE: Final = 50
"""How many images are decoded, spread over the table."""

SAMPLE_SECONDS: Final = 15.0
"""After this long no further image of the sample is begun."""

COMPARE_SECONDS: Final = 15.0
"""After this long no further image is begun to be compared with the others."""

OPENED: Final = 10
"""How many images the worker's user tries to open, where root asks: a process each."""

HOMES: Final = (Path("/home"), Path("/root"), Path("/run/user"))
"""What `ProtectHome` hides from a unit."""

SEEN: Final = ("no", "false", "off", "0", "read-only")
"""Values of `ProtectHome` with which it does not."""

FEW_TRAINING, FEW_TEST = 20, 5
"""Fewer groups with a melanoma than these in the training and the test part say little."""

NEAR: Final = 0.5
"""A δ above this share of 1/N is warned about."""

_DECODED_SIZE: Final = 32
_COMPARED_SIZE: Final = 64
_WORDS: Final = 8
_MAP: Final = "map each under data.diagnoses in clinic.yaml: to a code of docs/vocabulary.md, or to leave_out"
_WORKERS: Final = 4


class DataDoctor:
    """Examines the data folder of one clinic; the table is read once."""

    def __init__(self, config: ClinicConfig) -> None:
        self._section = config.file.data
        self._policy: ClinicPolicy = config.policy
        self._name = config.file.name or ""
        self.root = config.data_folder if self._section else config.folder
        self._worker = owner(config.worker_state)
        self.images, self.units = 0, 0
        self._unknown: UnknownWords | None = None
        self.understood: Understanding | None = None
        """How the table was read, once it was, without names of images and patients."""
        self._records: tuple[LesionRecord, ...] = ()

    def steps(self) -> Iterator[Step]:
        """Yield the examinations, in order."""
        yield Step("data folder", self.folder, 20)
        yield Step("table", self.table, 60, needs=("data folder",))
        yield Step("diagnoses", self.diagnoses, needs=("table",))
        yield Step("reading", self.reading, needs=("table",))
        yield Step("images", self.readable, SAMPLE_SECONDS + 30, needs=("table",))
        yield Step("duplicates", self.duplicates, COMPARE_SECONDS + 30, needs=("table",))
        yield Step("melanomas", self.melanomas, needs=("table",))
        yield Step("patients", self.patients, needs=("table",))
        yield Step("delta", self.delta, needs=("patients",))

    def folder(self) -> Finding:
        """Judge whether the folder is there and can be listed."""
        if self._section is None:
            return bad("clinic.yaml names no data", "add a section data: with folder: to clinic.yaml")
        if not self.root.is_dir():
            return bad(f"{self.root}: no such folder", "correct data.folder in clinic.yaml, or mount the folder")
        if not os.access(self.root, os.R_OK | os.X_OK):
            return bad(f"{self.root}: this user may not read it", "give the worker's user read access to the folder")
        if self._closed([self.root]):
            return bad(f"{self.root}: {self._whose()} may not read it", self._open())
        protects = (systemd_units.setting(systemd_units.WORKER, "ProtectHome") or "no").lower()
        if protects not in SEEN and any(self.root.resolve().is_relative_to(home) for home in HOMES):
            mend = "set ProtectHome=read-only (systemctl edit melfed-worker), or move the images"
            return bad(f"{self.root}: the unit melfed-worker does not see it (ProtectHome)", mend)
        return good(str(self.root))

    def table(self) -> Finding:
        """Judge whether the table is one that melfed reads, and its rows have images."""
        tables = self._tables()
        if not tables:
            known = "image,target, and patient_id where patients are known"
            return bad("no table with known columns", f"give the table a header with at least {known} (docs/data.md)")
        if self._closed(tables):
            return bad(f"{self._whose()} may not read it", self._open())
        assert self._section is not None  # noqa: S101 (the step before saw to it)
        try:
            read, self._unknown = read_to_show(self.root, options=self._section.read_options())
        except UnknownWords as error:
            return bad(f"no diagnosis is in the vocabulary: {_listed(error)}", _MAP)
        except DataError:
            # Without its text, which may name an image or a patient.
            return bad("the table cannot be used", f"run `melfed-sim data {self.root}`, which says where and why")
        return self._selected(read)

    def diagnoses(self) -> Finding:
        """Judge whether every diagnosis is in the vocabulary: a word that nobody knows is neither positive nor not."""
        assert self.understood is not None  # noqa: S101 (the step before saw to it)
        if self._unknown:
            return bad(f"{len(self._unknown.words)} are not in the vocabulary: {_listed(self._unknown)}", _MAP)
        counts = {count.cause: count.rows for count in self.understood.left_out}
        text = f"{len(self.understood.words)} words, all in the vocabulary"
        if counts:
            listed = ", ".join(f"{rows} {cause}" for cause, rows in counts.items())
            mend = f"`melfed-sim data {self.root}` names them; complete the table, or leave them out"
            return doubtful(f"{text}; left out: {listed}", mend)
        return good(text)

    def reading(self) -> Finding:
        """Judge whether what was read can be right."""
        found = self.understood
        assert found is not None  # noqa: S101 (the step before saw to it)
        if found.improbable:
            return bad("; ".join(found.improbable), "correct the table, or say in clinic.yaml what it means")
        asked = []
        if found.ids_over_sources:
            asked.append(f"{found.ids_over_sources} patient ids occur in several sources and are taken as {found.ids}")
        if found.respelled:
            asked.append(f"{found.respelled} patients are spelled in several ways and taken for one each")
        if found.not_known:
            asked.append(f"{sum(found.not_known.values())} patient ids are taken for not known")
        asked += [f"{sum(counts.values())} cells of {what} are not understood" for what, counts in found.unread.items()]
        asked += found.questions
        if asked:
            return doubtful("; ".join(asked), "see below whether that is right (data.ids, data.same in clinic.yaml)")
        return good(f"{len(found.columns)} columns")

    def readable(self) -> Finding:
        """Decode a sample of the images, and see whether the worker's user may open some of them."""
        if closed := self._closed([file_of(self.root / record.image) for record in _spread(self._records, OPENED)]):
            return bad(f"{self._whose()} may not read {closed} images of a sample", self._open())
        sample, end = _spread(self._records, SAMPLE), time.monotonic() + SAMPLE_SECONDS

        def readable(record: LesionRecord) -> bool | None:
            if time.monotonic() > end:
                return None
            try:
                decode(self.root / record.image, _DECODED_SIZE)
            except ImageProblem:
                return False
            return True

        with ThreadPoolExecutor(_WORKERS) as pool:
            outcomes = list(pool.map(readable, sample))
        tried, broken = len(outcomes) - outcomes.count(None), outcomes.count(False)
        if not tried:
            return bad(f"no image was read within {SAMPLE_SECONDS:g} s", "see to the disk or share that holds them")
        if broken:
            text = f"{broken} of {tried} images of a sample cannot be read"
            mend = f"`melfed-sim data {self.root}` names each and why; convert them to 8-bit JPEG or PNG"
            return bad(text, mend) if 2 * broken > tried else doubtful(f"{text}; such images are left out", mend)
        return good(f"{tried} of {len(self._records)} images tried, all readable")

    def duplicates(self) -> Finding:
        """Judge whether one picture is there under several names, of all images or of as many as time allows."""
        end = time.monotonic() + COMPARE_SECONDS

        def compared(record: LesionRecord) -> tuple[str, bytes] | None:
            if time.monotonic() > end:
                return None
            try:
                data = read_file(self.root / record.image)
                return hashlib.sha256(data).hexdigest(), signature(decode_bytes(data, _COMPARED_SIZE))
            except ImageProblem:
                return "", b""

        records = self._records
        with ThreadPoolExecutor(_WORKERS) as pool:
            outcomes = zip(records, pool.map(compared, records), strict=True)
            tried = {record.image: outcome for record, outcome in outcomes if outcome is not None}
        digests = {image: digest for image, (digest, _) in tried.items() if digest}
        groups = find_duplicates(digests, {image: tried[image][1] for image in digests})
        text = f"{len(tried)} of {len(records)} images compared"
        if words := count_duplicates(records, groups).words():
            mend = f"`melfed-sim data {self.root}` names them; correct the table where two patients have one picture"
            return doubtful(f"{text}: {words}", mend)
        return good(f"{text}, each another picture")

    def melanomas(self) -> Finding:
        """Judge whether a study that divides the data as is usual will find melanomas, and images, enough."""
        records, usual = self._records, PartitionSpec()
        # Which patients are in which part follows from the worker's secret; about as many are with any other.
        split = split_clinic(self._name, records, usual, simulation_key(0))
        text = f"{sum(record.target for record in records)} of {len(records)} images show a melanoma"
        if reason := objection(split, usual):
            return bad(f"{text}; {reason}", "add images of further patients, or correct the diagnoses in the table")
        if len({record.target for record in records}) < 2:
            return bad(f"{text}; one class only", "add images of the other class, or correct the diagnoses")
        training, test = (self._patients_with_melanoma(part) for part in (split.train, split.test))
        text = f"{text}; groups with one: {training} to train on, {test} to test"
        if training < FEW_TRAINING or test < FEW_TEST:
            return doubtful(
                text, f"add melanoma patients: with fewer than {FEW_TRAINING} and {FEW_TEST} figures say little"
            )
        return good(text)

    def patients(self) -> Finding:
        """Judge whether the table names the units that the policy demands to be protected."""
        unit = self._policy.unit
        try:
            units = privacy_units(self._records, unit)
        except DataError as error:
            reason, _, mend = str(error).partition("; ")
            return bad(f"policy.unit is {unit}: {reason.partition(',')[0]}", mend)
        self.units = len(set(units))
        return good(f"{self.units} (policy.unit is {unit})")

    def delta(self) -> Finding:
        """Judge δ by the number of units: with 1/N or more, one of them could be published outright."""
        delta, share = self._policy.delta, self._policy.delta * self.units
        text = f"policy.delta {delta:g} for {self.units} units"
        mend = f"set policy.delta in clinic.yaml to {0.1 / max(self.units, 1):.1g} or less"
        if share >= 1:
            return bad(f"{text}: not below 1/{self.units}", mend)
        return good(text) if share <= NEAR else doubtful(f"{text}: hardly below 1/{self.units}", mend)

    def _patients_with_melanoma(self, part: Sequence[int]) -> int:
        return len({self._groups[index] for index in part if self._records[index].target})

    def _selected(self, read: LesionTable) -> Finding:
        """Keep the records of the clinic's sources, and judge what is left out."""
        assert self._section is not None  # noqa: S101 (the step before saw to it)
        try:
            self._records = select_sources(read.records, self._section.sources)
        except DataError:
            sources = len({record.source for record in read.records})
            return bad(
                f"data.sources matches none of the {sources} sources, or leaves none",
                "correct data.sources in clinic.yaml",
            )
        self.images = len(self._records)
        self.understood = understand(read, self._records, self._unknown).without_names()
        text = f"{self.images} images ({read.layout}), {len({r.patient_id for r in self._records} - {None})} patients"
        gaps = {"rows without an image": read.missing, "images without a row": read.unlisted}
        found = [f"{len(names)} {what}" for what, names in gaps.items() if names]
        if found:
            mend = f"`melfed-sim data {self.root}` names them; complete the table or the folder"
            return doubtful(f"{text}; {' and '.join(found)} are left out", mend)
        return good(text)

    def _closed(self, paths: Sequence[Path]) -> int:
        """Return how many files the worker's user cannot read, where root asks; for others 0."""
        return sum(not may_read(self._worker, path) for path in paths) if self._worker else 0

    def _whose(self) -> str:
        return f"the worker's user {self._worker.name}" if self._worker else "this user"

    def _open(self) -> str:
        name = self._worker.name if self._worker else ""
        return f"setfacl -R -m u:{name}:rX {self.root}, and let {name} enter the folders above it"

    def _tables(self) -> list[Path]:
        patterns = ["/".join(["*"] * (depth + 1)) for depth in range(TABLE_DEPTH + 1)]
        files = [path for pattern in patterns for path in self.root.glob(pattern) if not path.name.startswith(".")]
        tables = [path for path in files if path.suffix.lower() in TABLE_SUFFIXES]
        return [path for path in tables if any(table.truth for table in open_tables(path))]

    @cached_property
    def _groups(self) -> list[str]:
        return group_ids(self._records)


def _listed(error: UnknownWords) -> str:
    listed = ", ".join(f"'{word}' ({count})" for word, count in error.words.most_common(_WORDS))
    return f"{listed} and {len(error.words) - _WORDS} more" if len(error.words) > _WORDS else listed


def _spread(records: Sequence[LesionRecord], most: int) -> list[LesionRecord]:
    """Return up to so many records, evenly spread, the first and the last among them."""
    if len(records) <= most:
        return list(records)
    return [records[round(i * (len(records) - 1) / (most - 1))] for i in range(most)]
