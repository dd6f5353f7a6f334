"""A run's folder: `study.yaml`, `metrics.jsonl`, `checkpoints/`, `model.safetensors`, `summary.json`, `report.html`."""

import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from melfed.common.errors import RunError, StorageError
from melfed.common.files import write_text
from melfed.common.study.file import recorded_study, study_yaml
from melfed.common.study.protocol import CURRENT, Digest, Section, StudyProtocol
from melfed.server.runs.outcome import Outcome
from melfed.server.runs.summary import RUNGS, Rung, RunSummary

if TYPE_CHECKING:
    from melfed.common.metrics.noisy_histogram import Histogram

Event = Mapping[str, Any]
SUMS, LADDER, SEEN = "SHA256SUMS", "ladder.json", "seen.json"
_IDENTITY = re.compile(r"[0-9a-f]{16}")


class Parent(Section):
    """A shorter study whose rounds a run has gone on from."""

    digest: Digest
    rounds: int


_PARENTS = TypeAdapter(tuple[Parent, ...])


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of one run."""

    path: Path

    @classmethod
    def create(cls, path: Path, study: StudyProtocol, *, fresh: bool = False) -> "RunFolder":
        """Make a new run folder.

        Args:
            path: of the folder.
            study: what is run.
            fresh: where something stands at `path` already, take the first free one of `path-2`, `path-3` and so on:
                for a name that nobody chose, such as a time.

        Raises:
            RunError: something stands at `path` already.
            StorageError: it cannot be written.
        """
        path = _make(path, fresh)
        try:
            write_text(path / "run-id", secrets.token_hex(8) + "\n")
            write_text(path / "study.yaml", study_yaml(study))
        except StorageError:
            shutil.rmtree(path, ignore_errors=True)
            raise
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run folder. Raises RunError where there is none."""
        if not (path / "study.yaml").is_file():
            raise RunError(f"{path}: not a run folder (it has no study.yaml)")
        return cls(path)

    def parents(self) -> "tuple[Parent, ...]":
        """Return the shorter studies that the run has gone on from, the oldest first. Raises RunError."""
        path = self.path / "parents.json"
        if not path.exists():
            return ()
        try:
            return _PARENTS.validate_json(path.read_bytes())
        except (OSError, ValidationError):
            raise RunError(f"{path}: damaged; bring it back from a backup") from None

    def write_parents(self, parents: "Sequence[Parent]") -> None:
        """Write down from which shorter studies the run has gone on."""
        write_text(self.path / "parents.json", _PARENTS.dump_json(tuple(parents), indent=1).decode() + "\n")

    @property
    def identity(self) -> str:
        """What clinics' ledgers call this run: drawn at random when the folder was made.

        Raises:
            RunError: the file is missing or is not what was written.
        """
        path = self.path / "run-id"
        try:
            identity = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{path}: cannot be read ({error}); the run folder is damaged, start a new run") from None
        if not _IDENTITY.fullmatch(identity):
            raise RunError(f"{path}: holds no identity of a run; the run folder is damaged, start a new run")
        return identity

    @property
    def ledgers(self) -> Path:
        """One privacy ledger a clinic (simulation of a private study only)."""
        return self.path / "ledgers"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def pending(self) -> Path:
        """Answers to the open round (deployment only)."""
        return self.path / "round"

    @property
    def releases(self) -> Path:
        """The moments that each clinic released."""
        return self.path / "releases"

    @property
    def members(self) -> Path:
        """The clinics of the run (deployment only)."""
        return self.path / "members.json"

    @property
    def model(self) -> Path:
        """The final model."""
        return self.path / "model.safetensors"

    def models_of_clinics(self) -> dict[str, Path]:
        """Return the final model of each clinic, where each has one (`local` baseline), by the clinic's name."""
        files = sorted(self.path.glob("model-*.safetensors"))
        return {unquote(path.name.removeprefix("model-").removesuffix(".safetensors")): path for path in files}

    @property
    def report(self) -> Path:
        """The report page."""
        return self.path / "report.html"

    @property
    def partition(self) -> Path:
        """Which image was in which part of which clinic (simulation only)."""
        return self.path / "partition.json"

    def trained_on(self) -> set[str]:
        """Return the names, without folder and suffix, of the images that the run was trained on, where it is known."""
        if not self.partition.exists():
            return set()
        clinics = json.loads(self.partition.read_text(encoding="utf-8"))
        return {PurePosixPath(image).stem for clinic in clinics.values() for image in clinic["train"]}

    def study(self) -> StudyProtocol:
        """Return the run's study, with its weights' digest fixed."""
        return recorded_study(self.path / "study.yaml")

    def made_by(self, digest: str, study: StudyProtocol) -> bool:
        """Tell whether a digest in one of the run's files is that of its study.

        A study of version 1 had another digest, by rules that are gone: there its summary says which.
        """
        return digest == (study.digest if study.protocol == CURRENT else self.summary().study.digest)

    def append(self, event: Event) -> None:
        """Add one event to `metrics.jsonl`, durably."""
        path = self.path / "metrics.jsonl"
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as file:
                file.write(json.dumps(event, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}; free space and use --resume") from error

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the events of `metrics.jsonl`; a last line that a crash cut short is left out.

        Raises:
            RunError: another line is damaged: not JSON, or no event.
        """
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        lines = path.read_bytes().splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                event = from_json(line)  # histograms are long: five times as fast as json
            except ValueError:  # not JSON, or not even text
                if number == len(lines):
                    return
                raise RunError(f"{path}:{number}: not JSON; the run folder is damaged") from None
            named = event if isinstance(event, dict) else {}
            if not isinstance(named.get("event"), str) or type(named.get("round")) is not int:
                raise RunError(f"{path}:{number}: not an event of a run; the run folder is damaged")
            yield event

    def forget_after(self, round_number: int, *, validated: bool = False) -> None:
        """Drop the events of rounds after a checkpoint (their models are lost; they will be trained again).

        The validation of the checkpoint's own round is measured again as well, at the start of the next round, and the
        test after the last one.

        Args:
            round_number: of the checkpoint.
            validated: whether the checkpoint was written after the validation of its own round, which then stays.
        """
        measured = round_number if validated else round_number - 1
        limits = {"round": round_number, "validation": measured, "forgotten": round_number}
        if (self.path / "solution.json").exists():
            limits["start"] = 0  # of the head that rounds have begun at
        kept = [event for event in self.events() if event["round"] <= limits.get(event["event"], -1)]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(event) + "\n" for event in kept))

    def forget_evaluation(self) -> None:
        """Drop all histograms: they are of a model that is the run's no more."""
        kept = [event for event in self.events() if event["event"] not in {"validation", "test", "subgroups", "local"}]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(event) + "\n" for event in kept))

    def append_validation(
        self, round_number: int, together: "Histogram", of_clinics: "Mapping[str, Histogram]"
    ) -> None:
        """Add how the model after a round does on the clinics' validation parts: pooled, and each by itself."""
        from melfed.common.metrics.histogram import ScoreHistogram
        from melfed.common.metrics.noisy import metrics_of

        of_each = {name: metrics_of(found).model_dump(mode="json") for name, found in sorted(of_clinics.items())}
        if isinstance(together, ScoreHistogram):
            together = together.condensed()  # of a thousand clinics it would have millions of bins, every round
        # Whoever follows the run would work for as long as its clinics to find them anew.
        pooled = metrics_of(together).model_dump(mode="json")
        histogram = together.to_lists()
        event = {"event": "validation", "round": round_number, "pooled": pooled, "histogram": histogram}
        event["clinics"] = of_each
        self.append(event)

    def write_outcome(self, outcome: Outcome) -> None:
        """Add each clinic's test histogram to the events, and those of subgroups: what was paid for is kept."""
        for name, histogram in outcome.test.items():
            self.append({"event": "test", "clinic": name, "round": 0, "histogram": histogram.to_lists()})
        for name, histogram in outcome.local.items():
            self.append({"event": "local", "clinic": name, "round": 0, "histogram": histogram.to_lists()})
        if outcome.subgroups:
            cells = {cell: histogram.to_lists() for cell, histogram in outcome.subgroups.items()}
            self.append({"event": "subgroups", "round": 0, "histograms": cells})

    def write_summary(self, summary: RunSummary) -> None:
        """Write `summary.json`; a run that is finished anew has no sums until `write_sums`."""
        (self.path / SUMS).unlink(missing_ok=True)
        write_text(self.path / "summary.json", summary.model_dump_json(indent=2) + "\n")

    def summary(self) -> RunSummary:
        """Return the run's summary. Raises RunError where the run has not finished, or the file was changed since."""
        path = self.path / "summary.json"
        try:
            content = path.read_bytes()
            if self._sums().get(path.name, expected := hashlib.sha256(content).hexdigest()) != expected:
                raise RunError(f"{path}: not what the run wrote (see {SUMS}); bring it back from a backup")
            return RunSummary.model_validate_json(content)
        except FileNotFoundError:
            raise RunError(f"{self.path}: the run has not finished; go on with --resume {self.path}") from None
        except ValidationError as error:
            raise RunError(f"{path}: not a run summary: {error.errors()[0]['msg']}") from None
        except OSError as error:
            raise RunError(f"{path}: cannot be read: {error.strerror}") from None

    def ladder(self) -> tuple[Rung, ...]:
        """Return the other ways to a model that were measured beside this run's. Raises RunError."""
        path = self.path / LADDER
        try:
            return RUNGS.validate_json(path.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, ValidationError):
            raise RunError(f"{path}: damaged; measure it anew with melfed-sim ladder {self.path}") from None

    def write_ladder(self, rungs: "Sequence[Rung]") -> None:
        """Write `ladder.json`. Raises StorageError."""
        write_text(self.path / LADDER, RUNGS.dump_json(tuple(rungs), indent=1).decode() + "\n")

    def write_sums(self) -> None:
        """Write `SHA256SUMS` over a finished run's files, for `sha256sum --check`."""
        files = sorted(path for path in self.path.iterdir() if path.name in _FINAL or _is_model(path))
        lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
        write_text(self.path / SUMS, "".join(lines))

    def _sums(self) -> dict[str, str]:
        """Return the digests of a finished run's files by name; empty where they were never written."""
        path = self.path / SUMS
        if not path.exists():
            return {}
        rows = (line.partition("  ") for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
        return {name: digest for digest, _, name in rows}


_FINAL = frozenset(
    {"study.yaml", "summary.json", "metrics.jsonl", "report.html", "partition.json", "run-id", "clinic_rounds.csv"}
    | {"solution.json", LADDER, SEEN, "model-card.json", "model-card.md"}
)


def _is_model(path: Path) -> bool:
    return path.name.startswith("model") and path.suffix == ".safetensors"


def _make(path: Path, fresh: bool) -> Path:
    """Make the folder of a run, with its folder of checkpoints."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be made: {error.strerror}") from None
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            candidate.mkdir(mode=0o700)
            (candidate / "checkpoints").mkdir(mode=0o700)
        except FileExistsError:
            if not fresh:
                raise RunError(f"{path}: exists; choose another --out, or go on with --resume {path}") from None
        except OSError as error:
            raise StorageError(f"{path}: cannot be made: {error.strerror}") from None
        else:
            return candidate
    raise AssertionError  # it counts for ever
