"""A run that goes on for more rounds than its study had: where that gives what the longer study would have given."""

import shutil

from melfed.common.errors import RunError, StorageError
from melfed.common.files import write_text
from melfed.common.study.file import study_yaml
from melfed.common.study.protocol import StudyProtocol
from melfed.server.runs.folder import SEEN, SUMS, Parent, RunFolder

RESULTS = ("summary.json", SUMS, "report.html", "predictions.parquet", "clinic_rounds.csv", SEEN)


def check_longer(folder: RunFolder, study: StudyProtocol) -> None:
    """Raise RunError, saying why, where a run cannot be made one of a study that differs from its own."""
    if reason := _why_not(folder.study(), study):
        raise RunError(f"{folder.path}: {reason}")


def go_on_longer(folder: RunFolder, study: StudyProtocol) -> None:
    """Make a run one of a longer study: its rounds so far count, and its results are put aside in `rounds-N`.

    The study has a digest of its own; `parents.json` and the summary name the one before. Killed in between, the folder
    is still of the study before.

    Args:
        folder: of the run, finished or not.
        study: one that `check_longer` lets pass.

    Raises:
        StorageError: the folder cannot be written.
    """
    before = folder.study()
    parents = [parent for parent in folder.parents() if parent.digest != before.digest]
    folder.write_parents([*parents, Parent(digest=before.digest, rounds=before.federation.rounds)])
    _put_aside(folder, before)
    write_text(folder.path / "study.yaml", study_yaml(study))


def _why_not(before: StudyProtocol, study: StudyProtocol) -> str:
    had, wanted = before.federation.rounds, study.federation.rounds
    if before.with_changes("federation", rounds=wanted).digest != study.digest:
        return f"a run of study {before.digest[:12]}, not {study.digest[:12]}; resume with the same study"
    if wanted < had:
        return f"its study has {had} rounds, and {wanted} are asked for; resume with {had} or more"
    return _other_numbers(had, study)


def _other_numbers(had: int, study: StudyProtocol) -> str:
    """Return why the rounds so far are not the first ones of the longer study; "" where they are."""
    wanted = study.federation.rounds
    if study.privacy is not None:
        return f"its noise was chosen for {had} rounds, and {wanted} would cost more ε; begin a new run"
    if study.training.schedule != "constant":
        return (
            f"training.schedule is {study.training.schedule}: the learning rates so far were those of {had} rounds, "
            f"not of {wanted}; begin a new run"
        )
    if study.federation.stop and had % study.federation.validate_every:
        return (
            f"federation.stop has compared round {had}, the last one, which a study of {wanted} rounds does not "
            "validate; begin a new run"
        )
    if study.federation.tail_average:
        return f"federation.tail_average: other rounds are the last ones of {wanted} than of {had}; begin a new run"
    return ""


def _put_aside(folder: RunFolder, before: StudyProtocol) -> None:
    """Move what a finished run has written, the summary first: without it, the run is an unfinished one."""
    if not (folder.path / "summary.json").exists():
        return
    aside = folder.path / f"rounds-{before.federation.rounds}"
    try:
        aside.mkdir(mode=0o700, exist_ok=True)
        write_text(aside / "study.yaml", study_yaml(before))
        shutil.copy2(folder.partition, aside / folder.partition.name)
        for path in [folder.path / name for name in RESULTS] + sorted(folder.path.glob("model*.safetensors")):
            if path.exists():
                path.replace(aside / path.name)
    except OSError as error:
        raise StorageError(f"{aside}: cannot be written: {error.strerror}; free space and try again") from None
