"""What a clinic does with a model that it keeps. All of it happens here, for the clinic alone: nothing leaves."""

from collections.abc import Sequence
from pathlib import Path

from melfed.client.config.clinic import ClinicConfig
from melfed.client.data.loading import clinic_data
from melfed.client.data.split import Part
from melfed.client.models.store import KeptModel, load
from melfed.common.errors import DataError
from melfed.common.export.explanation import explain as explain_image
from melfed.common.export.formats import export as export_model
from melfed.common.export.predictions import Prediction, predictions
from melfed.common.metrics.exact import EvaluationMetrics, scored_metrics
from melfed.common.model.inference import pick_device, score
from melfed.common.progress import Progress


def predict(model: KeptModel, images: Sequence[Path]) -> list[Prediction]:
    """Return a score for each image file. Raises RunError: damaged, or it needs age, sex and site."""
    facts = model.facts
    return list(predictions(load(model), facts.image_size, images, facts.calibration, facts.seen))


def explain(model: KeptModel, image: Path, out: Path) -> None:
    """Write a PNG of what moved an image's logit up; see `melfed.common.export.explanation.explain`."""
    explain_image(load(model), image, model.facts.image_size, out)


def evaluate(config: ClinicConfig, model: KeptModel, part: Part, progress: Progress | None = None) -> EvaluationMetrics:
    """Return exact metrics of a model on one part of the clinic's own images, divided as its study divides them.

    They are for the clinic alone: they have no noise, and no ε is charged, since nobody else learns them.

    Args:
        config: the clinic's.
        model: one that it keeps.
        part: train, validation or test; the model has learnt from the first where this clinic took part.
        progress: called with (done, all) images while they are scored.

    Raises:
        DataError: the clinic's data cannot be used, or the part is empty.
        LedgerError: the clinic's secret, by which its images are divided, is missing.
        RunError: the model is damaged.
    """
    images = clinic_data(config, model.study).load(part)
    if not len(images):
        raise DataError(f"{config.data_folder}: no image is in the {part} part of study {model.facts.name}")
    device, size = pick_device(), model.facts.image_size
    scores = score(
        load(model).to(device), images, size, device, (lambda done: progress(done, len(images))) if progress else None
    )
    return scored_metrics(scores, images.targets, images.groups)


def export(model: KeptModel, kind: str, out: Path, int8: Path | None = None) -> None:
    """Write a model in an open format; see `melfed.common.export.formats.export`."""
    export_model(load(model), model.facts, kind, out, int8)
