"""Which image file each row of a table means."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from common.data import class_folders
from common.data.cells import read_age
from common.data.decisions import LeftOutRow
from common.data.files import Files
from common.data.identity import normal_id
from common.data.joining import refuse_duplicate
from common.data.rows import Row
from common.data.vocabulary.sex import read_sex
from common.data.vocabulary.sites import read_site
from common.errors import DataError


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
        self._tails: dict[str, list[str]] | None = None
        for row in rows:
            self._match(row)
        for named in self.found.values() if strict else ():
            if len(named) > 1:
                refuse_duplicate(named[1], named[0])

    def _match(self, row: Row) -> None:
        try:
            paths = self._paths(row)
        except DataError as error:
            if self._strict:
                raise DataError(f"{row.where}: {error}") from error
            self.left_out.append(LeftOutRow(row.image, row.where, "cannot be used", str(error)))
            return
        if not paths:
            self.missing.append(row)
        for path in paths:
            told = self._with_header(row, path) if path in self._dicom else row
            self.found.setdefault(path, []).append(told)

    def _paths(self, row: Row) -> Sequence[str]:
        if row.table.layout == class_folders.LAYOUT:
            return (row.image,)
        path = self._files.find(row.image, row.table.path.parent)
        if path is not None:
            return (path,)
        if self._files.dicom_files and (several := self._files.of_accession(row.image)):
            return several
        return self._by_tail(row.image)

    def _by_tail(self, name: str) -> Sequence[str]:
        """The one image whose path ends with a name's: published paths are often relative to a folder of images."""
        if "/" not in name:
            return ()
        if self._tails is None:
            self._tails = defaultdict(list)
            for image in self._files.images:
                self._tails["/".join(image.split("/")[-2:])].append(image)
        hits = [path for path in self._tails.get("/".join(name.split("/")[-2:]), ()) if f"/{path}".endswith(f"/{name}")]
        return hits if len(hits) == 1 else ()

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
