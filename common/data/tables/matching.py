"""Which image file each row of a table means."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from melfed.common.data.decisions import LeftOutRow
from melfed.common.data.identity import normal_id
from melfed.common.data.images.files import Files
from melfed.common.data.tables.cells import read_age
from melfed.common.data.tables.joining import refuse_duplicate
from melfed.common.data.tables.rows import Row
from melfed.common.data.tables.tables import Table
from melfed.common.data.vocabulary.sex import read_sex
from melfed.common.data.vocabulary.sites import read_site
from melfed.common.errors import DataError


class Matched:
    """The rows of one layout by the image file they name.

    Attributes:
        found: by path of an image, the rows that name it: one where read strictly.
        missing: rows that name no image that is there.
        left_out: rows whose image cannot be told.
    """

    def __init__(self, files: Files, rows: Iterable[Row], strict: bool) -> None:
        """Find the images of some rows.

        Args:
            files: what there is.
            rows: of one layout.
            strict: whether a row whose image cannot be told is an error.

        Raises:
            DataError: where `strict`, two rows for one image, or a name that leads out of the folder or fits several.
        """
        self.found: dict[str, list[Row]] = {}
        self.missing: list[Row] = []
        self.left_out: list[LeftOutRow] = []
        self._files, self._strict = files, strict
        self._dicom = frozenset(files.dicom_files)
        found = self.found
        table: Table | None = None
        named: Mapping[str, str] = {}
        for row in rows:
            if row.table is not table:
                table, named = row.table, files.named(row.table.folder)
            if (path := named.get(row.image)) is not None and path not in found:
                found[path] = [row]
                continue
            try:
                path = path or files.find(row.image, row.table.folder, row.patient)
            except DataError as error:
                if strict:
                    raise DataError(f"{row.where}: {error}") from error
                self.left_out.append(LeftOutRow(row.image, row.where, "cannot be used", str(error)))
                continue
            for image in (path,) if path is not None else self._otherwise(row):
                told = self._with_header(row, image) if image in self._dicom else row
                if image not in found:
                    found[image] = [told]
                elif strict:
                    refuse_duplicate(told, found[image][0])
                else:
                    found[image].append(told)

    def _otherwise(self, row: Row) -> Sequence[str]:
        """The images of a row whose name is no file's."""
        images: Sequence[str] = self._files.of_accession(row.image) if self._dicom else ()
        if not images:
            self.missing.append(row)
        return images

    def _with_header(self, row: Row, path: str) -> Row:
        """The row, with what the DICOM header says where the table says nothing."""
        header = self._files.headers[path]
        return replace(
            row,
            patient=row.patient or normal_id(header.patient_id),
            age=row.age if row.age is not None or header.age is None else read_age(header.age),
            sex=row.sex or (read_sex(header.sex).value if header.sex else None),
            site=row.site or (read_site(header.site).value if header.site else None),
            image_type=row.image_type or header.image_type,
        )
