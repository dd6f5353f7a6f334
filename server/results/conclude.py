"""The two ends of a deployed run that need torch: the tensors that it begins with, and what is written at its end.

Both are for `melfed.common.process.aside`: torch is loaded where they run, and not where they are named.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import load_tensors, save_tensors
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.server.runs.summary import RunSummary

AT_CLINICS = "the clinics' own"


def write_initial(study: StudyProtocol, weights: Path, path: Path) -> None:
    """Write what the study's network learns, as it stands before the first round.

    Args:
        study: the run's.
        weights: folder of pretrained weights.
        path: the file, as of `melfed.common.tensors.save_tensors`.

    Raises:
        WeightsError: they are not there.
        StorageError: the file cannot be written.
    """
    from melfed.common.study.build import build_study_classifier, shared_tensors

    save_tensors(path, shared_tensors(study, build_study_classifier(study, weights)), {})


def conclude(path: Path, outcome: Outcome, model: Path, weights: Path) -> RunSummary:
    """Write a deployed run's model, summary and report; return the summary. The file `model` is then `write_learnt`'s.

    Args:
        path: the run's folder.
        outcome: of its rounds and final evaluation, without the model.
        model: the model's tensors, as `write_initial` writes them.
        weights: folder of pretrained weights.

    Raises:
        MelfedError: as `melfed.server.results.finalize.finish`.
    """
    from melfed.common.study.build import build_study_classifier
    from melfed.server.results.finalize import Finished, finish, told_data
    from melfed.server.runs.request import read_request
    from melfed.server.runs.summary import PublicData

    tensors, _ = load_tensors(model, summed=True, mapped=True)
    outcome = replace(outcome, models={"": {name: np.asarray(each, np.float32) for name, each in tensors.items()}})
    folder = RunFolder.open(path)
    study = folder.study()
    data = told_data(study, outcome.clinics)
    used = PublicData(study=study.name, digest=study.digest, images=data.images, sources=tuple(outcome.clinics))
    seconds = time.time() - (path / "run-id").stat().st_mtime
    network = build_study_classifier(study, weights)
    choices = read_request(path).choices
    summary = finish(folder, Finished(study, network, outcome, data, used, seconds, AT_CLINICS, choices, (), weights))
    write_learnt(path, model)
    return summary


def write_learnt(path: Path, file: Path) -> None:
    """Write what a finished run's model has learnt, as clinics are sent it.

    Args:
        path: the run's folder.
        file: as of `write_initial`.

    Raises:
        RunError: the run has not finished, or its model is damaged.
        StorageError: the file cannot be written.
    """
    from melfed.common.model.classifier import trainable_tensors
    from melfed.server.results.evaluate import load_model

    _, model = load_model(RunFolder.open(path))
    save_tensors(file, trainable_tensors(model), {})
