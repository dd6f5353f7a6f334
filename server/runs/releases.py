"""What clinics released in a study of one round, kept in the run's folder: a file a clinic.

While the run goes on they are its answers so far: whoever has answered is not asked again, days later and in another
process. Afterwards they are what other heads are solved from, without a question to anybody.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from melfed.common.errors import DataError, RunError, StorageError
from melfed.common.messages import SUMMARISED
from melfed.common.moments.noisy_moments import NoisyMoments
from melfed.common.study.protocol import Section
from melfed.common.tensors import group_of, in_group, load_tensors, save_tensors
from melfed.server.runs.counts import Counts
from melfed.server.runs.names import clinic_file
from melfed.server.runs.outcome import ReportedAccount


@dataclass(frozen=True)
class Release:
    """One clinic's moments, checked.

    Attributes:
        train: of its training part.
        validation: of its validation part.
        counts: what the clinic said of its data.
        account: what it said of its privacy.
        size: bytes of the reply.
    """

    train: NoisyMoments
    validation: NoisyMoments
    counts: Counts
    account: ReportedAccount | None
    size: int


class _Header(Section):
    clinic: str
    digest: str
    counts: Counts
    account: ReportedAccount | None
    size: int


@dataclass(frozen=True)
class Releases:
    """The folder `RUN/releases` of a study's run.

    Attributes:
        folder: made when the first release is kept.
        digest: of the study.
    """

    folder: Path
    digest: str

    def keep(self, clinic: str, release: Release) -> None:
        """Write a clinic's release, durably. Raises StorageError; then it must not count."""
        arrays = {
            name: array
            for part in SUMMARISED
            for name, array in in_group(part, getattr(release, part).to_arrays()).items()
        }
        header = _Header(
            clinic=clinic, digest=self.digest, counts=release.counts, account=release.account, size=release.size
        )
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be made: {error.strerror}; free space and try again") from None
        save_tensors(self._path(clinic), arrays, {"header": header.model_dump(mode="json")})

    def kept(self) -> dict[str, Release]:
        """Return all releases, by clinic in the order of names. Raises RunError where one is damaged."""
        files = sorted(self.folder.glob("*.safetensors")) if self.folder.is_dir() else []
        return dict(sorted(self._read(path) for path in files))

    def whole(self) -> dict[str, Release]:
        """Return the releases of a run that goes on; a damaged one is dropped, since its clinic can repeat it."""
        for path in sorted(self.folder.glob("*.safetensors")) if self.folder.is_dir() else ():
            try:
                self._read(path)
            except RunError:
                path.unlink(missing_ok=True)
        return self.kept()

    def forget(self, clinic: str) -> None:
        """Delete a clinic's release.

        Raises:
            RunError: there is none.
            StorageError: it cannot be deleted.
        """
        path = self._path(clinic)
        try:
            path.unlink()
        except FileNotFoundError:
            took_part = ", ".join(self.kept()) or "nobody"
            raise RunError(f"{self.folder.parent}: clinic {clinic!r} took no part in it; {took_part} did") from None
        except OSError as error:
            raise StorageError(f"{path}: cannot be deleted: {error.strerror}") from None

    def _path(self, clinic: str) -> Path:
        return self.folder / clinic_file(clinic)

    def _read(self, path: Path) -> tuple[str, Release]:
        arrays, metadata = load_tensors(path)
        try:
            header = _Header.model_validate_json(json.dumps(metadata.get("header")))
            moments = {part: NoisyMoments.from_arrays(group_of(part, arrays)) for part in SUMMARISED}
        except (ValidationError, DataError) as error:
            raise RunError(f"{path}: no release of a clinic ({error}); bring it back from a backup") from None
        if header.digest != self.digest or path.name != clinic_file(header.clinic):
            raise RunError(f"{path}: of another study or clinic; bring it back from a backup")
        release = Release(**moments, counts=header.counts, account=header.account, size=header.size)
        return header.clinic, release
