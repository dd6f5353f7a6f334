"""A finished run in a notebook: its metrics, curves, predictions and report."""

import html
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from melfed.common.metrics.exact import EvaluationMetrics, Interval
from melfed.server.report.words import limits_of, value_of
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.summary import RunSummary
from melfed.simulations.api.study import Study

if TYPE_CHECKING:
    import polars
    from matplotlib.figure import Figure

    from melfed.common.export.predictions import Prediction

QUANTITIES = {
    "AUROC": "auroc",
    "AUPRC": "auprc",
    "balanced accuracy at 0.5": "balanced_accuracy",
    "sensitivity at 90 % specificity": "sensitivity_at_90_specificity",
    "sensitivity at 95 % specificity": "sensitivity_at_95_specificity",
}
"""What is shown of an evaluation, and the name of its attribute."""


class Run:
    """A finished run: its folder, and what is in it.

    Attributes:
        summary: all of the run, as `summary.json` has it.

    >>> run = Run.open("runs/demo-20260101-120000")
    Traceback (most recent call last):
        ...
    melfed.common.errors.RunError: runs/demo-20260101-120000: not a run folder (it has no study.yaml)
    """

    def __init__(self, folder: RunFolder, summary: RunSummary) -> None:
        self._folder = folder
        self.summary = summary

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the folder of a run that has finished, here or in a deployment. Raises RunError where it is none."""
        folder = RunFolder.open(Path(path))
        return cls(folder, folder.summary())

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._folder.path

    @property
    def report(self) -> Path:
        """The report, a page for a browser."""
        return self._folder.report

    @property
    def study(self) -> Study:
        """The study, with its weights' digest and all that its recipe chose written out."""
        return Study.recorded(self.path / "study.yaml")

    @property
    def metrics(self) -> EvaluationMetrics:
        """How good the final model is on the test parts of all clinics pooled, with 95 % intervals."""
        return self.summary.test

    @property
    def clinics(self) -> dict[str, EvaluationMetrics]:
        """How good it is on each clinic's test part, by the clinic's name."""
        return {clinic.name: clinic.test for clinic in self.summary.clinics}

    @property
    def rounds(self) -> "polars.DataFrame":
        """A row a round: round, train_loss (null in a private study), validation auroc and auprc, seconds, bytes."""
        import polars

        rows = [
            {
                "round": row.round,
                "train_loss": row.train_loss,
                "auroc": row.validation.auroc.value if row.validation else None,
                "auprc": row.validation.auprc.value if row.validation else None,
                "seconds": row.seconds,
                "bytes_up": row.bytes_up,
                "bytes_down": row.bytes_down,
            }
            for row in self.summary.rounds
        ]
        floats = dict.fromkeys(("train_loss", "auroc", "auprc", "seconds"), polars.Float64)
        integers = dict.fromkeys(("round", "bytes_up", "bytes_down"), polars.Int64)
        return polars.DataFrame(rows, schema={key: (floats | integers)[key] for key in _COLUMNS})

    def curves(self) -> "Figure":
        """Return a matplotlib figure: training by round, ROC, and precision against recall, all of pooled images."""
        from melfed.simulations.api.curves import figure

        return figure(self.summary, self._folder)

    def predict(self, image: str | Path, clinic: str | None = None) -> "Prediction":
        """Return the model's probability that a picture shows a positive. For research, never for diagnosis.

        Args:
            image: a picture's file.
            clinic: whose model, of a `local` baseline.

        Returns:
            Probability and logit, or the problem of a picture that cannot be used.

        Raises:
            RunError: the model needs age, sex and site, a clinic is to be named, or none.
        """
        return self.predict_all([image], clinic)[0]

    def predict_all(self, images: Iterable[str | Path], clinic: str | None = None) -> "list[Prediction]":
        """Return `predict` of several pictures; the model is read once."""
        from melfed.server.results.evaluate import predict

        return predict(self.path, [Path(image) for image in images], clinic)

    def __repr__(self) -> str:
        return f"<Run {self.path}: AUROC {_shown(self.metrics.auroc)}, AUPRC {_shown(self.metrics.auprc)}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a row for all pooled, and one a clinic."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", "images", "melanomas", *QUANTITIES))
        rows = [("all pooled", self.metrics), *((row.name, row.test) for row in self.summary.clinics)]
        body = "".join(f"<tr>{_cells(name, metrics)}</tr>" for name, metrics in rows)
        notes = "".join(f"<p>{html.escape(line)}</p>" for line in self.summary.warnings)
        where = html.escape(str(self.report))
        return f"<table><tr>{head}</tr>{body}</table>{notes}<p>report: <code>{where}</code></p>"


_COLUMNS = ("round", "train_loss", "auroc", "auprc", "seconds", "bytes_up", "bytes_down")


def _shown(interval: Interval) -> str:
    limits = limits_of(interval)
    return f"{value_of(interval)} ({limits})" if limits else "undefined"


def _cells(name: str, metrics: EvaluationMetrics) -> str:
    values: list[Any] = [name, metrics.images, metrics.melanomas]
    values += [_shown(getattr(metrics, attribute)) for attribute in QUANTITIES.values()]
    return "".join(f"<td>{html.escape(str(value))}</td>" for value in values)
