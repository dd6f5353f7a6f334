"""The other ways from the same public start to a model, measured beside a private run: `RUN/ladder.json`.

Each is a run of its own below `RUN/ladder`, with its own noise and ledgers. What costs no question to a patient's
training images is measured with every simulated run (`melfed.simulations.starts`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from melfed.common.errors import RunError
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.recipe import resolve
from melfed.server.federation.observer import Observer
from melfed.server.report.ladder import own
from melfed.server.report.page import write_report
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.summary import Rung, RungName
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from melfed.simulations.run import simulate

FOLDER: Final = "ladder"
MEASURED: Final[tuple[RungName, ...]] = ("one_round", "rounds", "no_privacy")
KEPT: Final[Mapping[str, tuple[str, ...]]] = {
    "training": ("positive_weight", "seed"),
    "federation": ("quorum", "deadline_seconds", "grace_seconds", "largest_clinic"),
    "privacy": ("unit", "epsilon", "noise_multiplier", "delta", "patients", "evaluation"),
}
"""Keys that are the study's whatever way it goes, of the sections in which a recipe chooses anew."""


def measure(
    folder: RunFolder,
    virtual: VirtualClinics,
    names: Sequence[RungName],
    observer: Observer,
    weights_dir: Path | None = None,
) -> list[Rung]:
    """Run the ways that are named and not measured yet, and write the run's ladder and report anew.

    Args:
        folder: of a finished private run.
        virtual: its clinics.
        names: one_round, rounds, no_privacy; the run's own is left out.
        observer: is told how each goes.
        weights_dir: where the public run is looked for.

    Returns:
        All that is measured beside the run.

    Raises:
        RunError: the run has not finished, or has no privacy.
        MelfedError: as `melfed.simulations.run.run_study`.
    """
    study, summary = folder.study(), folder.summary()
    if study.privacy is None or summary.privacy is None:
        raise RunError(f"{folder.path}: a run without privacy has no ladder; name a private one")
    found = {rung.name: rung for rung in folder.ladder()}
    for name in names:
        if name == own(summary, study).name:
            continue
        place = folder.path / FOLDER / name
        if not (place / "summary.json").exists():
            simulate(way(study, name), virtual, place, observer, weights_dir=weights_dir, resume=place.exists())
        made = RunFolder.open(place)
        rung = own(made.summary(), made.study())
        found[name] = rung.model_copy(update={"name": name})
    rungs = sorted(found.values(), key=lambda rung: rung.name)
    folder.write_ladder(rungs)
    write_report(folder)
    folder.write_sums()
    return rungs


def way(study: StudyProtocol, name: RungName) -> StudyProtocol:
    """Return a study of the same clinics, patients, start and ε that goes another way.

    Without privacy are the very rounds of the study, or those that it would have, with no noise.
    """
    if name == "one_round":
        return _anew(study, "one_round")
    rounds = study if study.federation.mode == "federated" else _anew(study, "federated")
    if name == "rounds":
        return rounds
    return rounds.with_changes("privacy", epsilon=None, noise_multiplier=0.0)


def _anew(study: StudyProtocol, mode: str) -> StudyProtocol:
    content = study.model_dump(mode="json")
    for section, keys in KEPT.items():
        content[section] = {key: content[section][key] for key in keys}
    content["federation"]["mode"] = mode
    content["privacy"]["recipe"] = "auto"
    content["model"].pop("train")
    return resolve(StudyProtocol.model_validate_json(json.dumps(content)))[0]
