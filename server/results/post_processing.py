"""What is made of a finished run's releases, at no further ε: other heads, what clinics were worth, a run without one.

Releases were noised when they left their clinics, so whatever is computed from them tells nothing more of any patient.
How good a head is on patients is another question: histograms of scores belong to one head, and another one's are a new
question to the clinics, and a new charge.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

import numpy as np

from melfed.common.errors import DataError, RunError, StorageError
from melfed.common.files import write_text
from melfed.common.model.classifier import load_trainable
from melfed.common.moments.noisy_moments import FloatArray, NoisyMoments
from melfed.common.moments.solvers import SOLVERS, Wanted
from melfed.common.moments.worth import Judge, Worth, worth
from melfed.common.study.file import study_yaml
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import load_tensors
from melfed.server.report.page import write_report
from melfed.server.results.card import write_card
from melfed.server.results.evaluate import load_model, save_model, summarise
from melfed.server.results.solved import Solution, Terms, read_solution, solve_run, write_solution
from melfed.server.runs.checkpoints import Checkpoint, save_checkpoint
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.server.runs.releases import Release, Releases
from melfed.server.runs.request import NAME as REQUEST
from melfed.server.runs.request import change_request, read_request
from melfed.server.runs.summary import PublicData

WORTH_SOLVER: Final = "discriminant"
"""Closed form: there is a head for each subset of the clinics."""
NOT_EVALUATED: Final = (
    "this head was solved anew, and no clinic has evaluated it: what its scores are worth is a new question to the "
    "clinics, and a new charge"
)


def releases_of(folder: RunFolder, *, replaces: bool = False) -> tuple[StudyProtocol, dict[str, Release]]:
    """Return a finished run's study and releases, by clinic.

    Args:
        folder: of the run.
        replaces: whether the run's own model is to be another one: that of rounds, which began at a solved head, cannot
            be.

    Raises:
        RunError: the run keeps no releases, trained in rounds from them on and is to be changed, has not finished, or a
            release is damaged.
    """
    study = folder.study()
    if not study.federation.asks_for_moments or (replaces and study.federation.mode != "one_round"):
        kept = "can be changed so" if study.federation.asks_for_moments else "keep releases"
        raise RunError(
            f"{folder.path}: it trained in rounds, and each clinic's updates are in the model for good; only runs of "
            f"federation.mode one_round {kept}"
        )
    folder.summary()
    return study, Releases(folder.releases, study.digest).kept()


def worth_of(folder: RunFolder, judge: Judge) -> Worth:
    """Return what each clinic, and each pair, added to a run's head. Raises RunError."""
    study, releases = releases_of(folder)
    public = read_solution(folder).public
    wanted = Wanted(positive_weight=study.training.positive_weight, public=public)

    def direct(moments: NoisyMoments) -> FloatArray:
        return SOLVERS[WORTH_SOLVER](moments, wanted)

    train = {name: release.train for name, release in releases.items()}
    # Where nobody is in the validation part, its moments are noise alone.
    judges = {name: release.validation for name, release in releases.items() if study.partition.validation > 0}
    try:
        random, start = np.random.default_rng(0), None if public is None else np.array(public)
        return worth(train, judges, direct, judge, random, start)
    except DataError as error:
        raise RunError(f"{folder.path}: {error}") from None


def prevalence_of(folder: RunFolder, clinic: str) -> float:
    """Return the share of positives in a clinic's release, between 0.001 and 0.999. Raises RunError."""
    _, releases = releases_of(folder)
    if clinic not in releases:
        raise RunError(f"{folder.path}: clinic {clinic!r} took no part in it; {', '.join(releases)} did")
    moments = releases[clinic].train
    positive, negative = (max(moments.count(name), 0.0) for name in ("positives", "negatives"))
    return float(np.clip(positive / max(positive + negative, 1.0), 0.001, 0.999))


def write_head(folder: RunFolder, out: Path, terms: Terms) -> Solution:
    """Solve another head, and write it as a model beside the study, for `melfed-server predict`.

    Args:
        folder: of a finished run, which stays as it is.
        out: new folder.
        terms: what the head is solved for.

    Raises:
        RunError: as `releases_of`; or something stands at `out`.
        StorageError: it cannot be written.
    """
    study, releases = releases_of(folder)
    solution = solve_run(study, releases, terms, read_solution(folder).public)
    try:
        out.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise RunError(f"{out}: exists; choose another --out") from None
    except OSError as error:
        raise StorageError(f"{out}: cannot be made: {error.strerror}") from None
    made = RunFolder(out)
    write_text(out / "study.yaml", study_yaml(study))
    _write_model(folder, made, study, solution)
    write_solution(made, solution)
    return solution


def without(folder: RunFolder, clinic: str, by: str) -> Solution:
    """Take a clinic out of a finished run: delete its release, and solve the head from those of the others.

    The head is the one that the run would have had without that clinic, to the last bit. What has been evaluated was
    another head, so that the run shows no result until its clinics have evaluated this one.

    Args:
        folder: of the run.
        clinic: its name.
        by: who does it, for the record.

    Raises:
        RunError: as `releases_of`; the clinic took no part in it, or nobody else did.
        StorageError: something cannot be deleted or written.
    """
    study, releases = releases_of(folder, replaces=True)
    store = Releases(folder.releases, study.digest)
    if clinic in releases and len(releases) == 1:
        raise RunError(f"{folder.path}: nobody but {clinic} took part in it, so nothing would be left of it")
    store.forget(clinic)
    _delete_simulated(folder, clinic)
    del releases[clinic]
    if (folder.path / REQUEST).exists():
        clinics = tuple(name for name in read_request(folder.path).clinics if name != clinic)
        change_request(folder.path, clinics=clinics)
        _forget_member(folder, clinic)
    solution = replace_head(folder, study, releases)
    _record(folder, "forgotten", clinic, by)
    return solution


def replace_head(folder: RunFolder, study: StudyProtocol, releases: Mapping[str, Release]) -> Solution:
    """Solve a run's head from these releases in place of the one that it has, and take back what was evaluated."""
    before = folder.summary()
    solution = solve_run(study, releases, public=read_solution(folder).public)
    tensors = solution.tensors()
    _write_model(folder, folder, study, solution)
    save_checkpoint(folder.checkpoints, Checkpoint(1, study.digest, tensors, {}))
    write_solution(folder, solution)
    folder.forget_evaluation()
    counts = {name: release.counts for name, release in releases.items()}
    summary = summarise(study, folder, before.data, Outcome({"": tensors}, counts, {}), before.seconds, before.device)
    privacy = before.privacy
    if privacy is not None:
        privacy = privacy.model_copy(update={"clinics": tuple(c for c in privacy.clinics if c.name in releases)})
    kept: dict[str, object] = {"privacy": privacy, "public": before.public, "steps": {}, "warnings": (NOT_EVALUATED,)}
    folder.write_summary(summary.model_copy(update=kept))
    write_report(folder)
    write_card(folder)
    folder.write_sums()
    return solution


def _write_model(run: RunFolder, out: RunFolder, study: StudyProtocol, solution: Solution) -> None:
    _, model = load_model(run)
    load_trainable(model, solution.tensors())
    _, metadata = load_tensors(run.model)
    save_model(out.model, model, study, PublicData.model_validate(metadata["data"]))


def _delete_simulated(folder: RunFolder, clinic: str) -> None:
    """Delete what a simulated clinic has kept of its release; a real one does so by itself."""
    name = quote(clinic, safe=" ,()")
    for path in folder.ledgers.glob("*.moments-*.safetensors") if folder.ledgers.is_dir() else ():
        if path.name.startswith(f"{name}.moments-"):
            path.unlink(missing_ok=True)


def _forget_member(folder: RunFolder, clinic: str) -> None:
    """Take a clinic out of what a deployed run remembers of its clinics."""
    try:
        content = json.loads(folder.members.read_bytes())
        del content["clinics"][clinic]
    except (OSError, ValueError, KeyError):
        return  # it is not there, or the clinics say again what was in it
    write_text(folder.members, json.dumps(content, indent=1) + "\n")


def _record(folder: RunFolder, event: str, clinic: str, by: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    folder.append({"event": event, "round": 1, "clinic": clinic, "by": by, "time": now})
    folder.write_sums()
