"""Run folders with invented results, for tests of whatever reads a finished run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noisy_evaluation import noised_histograms
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy import metrics_of
from melfed.common.metrics.noisy_histogram import Histogram, NoisyHistogram, pooled
from melfed.common.metrics.score_edges import edges_around
from melfed.common.study.count_noise import unit_parts
from melfed.common.study.evaluation_keys import EvaluationSpec, PointSpec
from melfed.common.study.protocol import DataSpec, FederationSpec, ModelSpec, PrivacySpec, StudyProtocol
from melfed.common.study.recipe import Choice
from melfed.server.results.calibration import summarise_calibration, summarise_points
from melfed.server.results.finalize import told_data
from melfed.server.results.privacy import summarise_privacy
from melfed.server.runs.counts import Counts, counted, totals
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome, ReportedAccount
from melfed.server.runs.summary import (
    ClinicSummary,
    DataSummary,
    LeftOutImage,
    PublicData,
    RoundSummary,
    RunSummary,
    StudyIdentity,
)

CLINICS = ("vidir_molemax", "vidir_modern", "rosendahl", "vienna_dias")
ROUNDS = 5
PRIVATE = PrivacySpec(unit="patient", epsilon=3.0, sampling_rate=0.5, steps=8, views=4, evaluation="public")
NOISED = PrivacySpec(unit="patient", epsilon=3.0, steps=8, evaluation="noised")
EVALUATION_NOISE = 4.0
COUNT_NOISE = 9.0
CHOICES = (
    Choice(key="model.train", value="head", reason="about 1000 patients a clinic are too few for more at ε 3"),
    Choice(key="privacy.steps", value=8, reason="40 steps in all: more of them need more noise each"),
)
PUBLIC = PublicData(study="isic-public", digest="ab" * 32, images=7529, sources=("MSK", "UDA", "SONIC"))
LEFT_OUT = (("images/ISIC_0000007.jpg", "truncated"), ("images/ISIC_0000011.png", "not an image"))


@dataclass(frozen=True)
class FakeRun:
    """What a fake run is like; the results are drawn from `seed`."""

    mode: Literal["federated", "central", "local"] = "federated"
    name: str = "ham10000"
    clinics: Sequence[str] = CLINICS
    images: Sequence[int] = (820, 430, 260, 90)
    melanoma_rates: Sequence[float] = (0.05, 0.28, 0.15, 0.2)
    rounds: int = ROUNDS
    synthetic: bool = False
    rendered: Sequence[str] = ()  # clinics of a deployed run whose images are synthetic
    groups_by: str = "lesion"
    failed: dict[str, str] = field(default_factory=dict)  # clinic and reason, in round 2
    declined: dict[str, str] = field(default_factory=dict)  # the same
    left_out: Sequence[tuple[str, str]] = LEFT_OUT
    privacy: PrivacySpec | None = None
    choices: Sequence[Choice] = ()
    warnings: Sequence[str] = ()
    public: PublicData | None = None
    tail_average: float = 0.0
    declared: Sequence[str] = ()  # clinics of a private study that tell public figures
    deployed: bool = False
    seed: int = 0
    shift: float = 0.0  # of all test scores, logits
    points: Sequence[PointSpec] = ()  # operating points; with some of them the run has a validation

    def write(self, path: Path) -> RunFolder:
        """Write study, events and summary, as a run does; the report is left to the test."""
        rng = np.random.default_rng(self.seed)
        mode = FederationSpec(mode=self.mode, rounds=self.rounds, tail_average=self.tail_average)
        model = ModelSpec(weights_sha256="57934424" + 56 * "0")
        told = EvaluationSpec(operating_points=tuple(self.points))
        study = StudyProtocol(
            name=self.name, data=DataSpec(), model=model, federation=mode, privacy=self.privacy, evaluation=told
        )
        folder = RunFolder.create(path, study)
        test = {}
        for name, images, rate in zip(self.clinics, self.images, self.melanoma_rates, strict=True):
            test[name] = self._scores(rng, images, rate, skill=1.7, shift=self.shift)
            folder.append({"event": "test", "clinic": name, "round": 0, "histogram": test[name].to_lists()})
        folder.write_summary(self._calibrated(study, test, self._summary(study, test, rng), rng))
        return folder

    def _calibrated(
        self, study: StudyProtocol, test: dict[str, Histogram], summary: RunSummary, rng: np.random.Generator
    ) -> RunSummary:
        if not self.points:
            return summary
        of_validation = zip(self.images, self.melanoma_rates, strict=True)
        every = [self._scores(rng, images, rate, skill=1.7, shift=self.shift) for images, rate in of_validation]
        outcome = Outcome({}, {}, test, validation=pooled(every))
        found = {
            "calibration": summarise_calibration(study, outcome),
            "operating_points": summarise_points(study, outcome),
        }
        return summary.model_copy(update=found)

    def _scores(
        self, rng: np.random.Generator, images: int, rate: float, *, skill: float, shift: float = 0.0
    ) -> Histogram:
        noised = self.privacy is not None and self.privacy.evaluation == "noised"
        return (noised_scores if noised else scores)(rng, images, rate, skill=skill, shift=shift)

    def _summary(self, study: StudyProtocol, test: dict[str, Histogram], rng: np.random.Generator) -> RunSummary:
        told = {name: self._counts(study, name, histogram) for name, histogram in test.items()}
        clinics = tuple(self._clinic(study, name, told[name], histogram, rng) for name, histogram in test.items())
        left_out = tuple(LeftOutImage(image=image, reason=reason) for image, reason in self.left_out)
        return RunSummary(
            melfed="0.1.0",
            study=StudyIdentity(name=study.name, digest=study.digest),
            mode=self.mode,
            data=told_data(study, told) if self.deployed else self._data(test, left_out),
            test=metrics_of(pooled(test.values())),
            clinics=clinics,
            privacy=summarise_privacy(study, accounts(study, self.clinics), told, self.choices, self.warnings),
            public=self.public,
            rounds=tuple(self._round(number, rng) for number in range(1, self.rounds + 1)),
            seconds=1312.4,
            versions={"python": "3.11.9", "melfed": "0.1.0", "flwr": "1.41.0", "torch": "2.15.0"},
            device="cpu",
        )

    def _data(self, test: dict[str, Histogram], left_out: tuple[LeftOutImage, ...]) -> DataSummary:
        """A folder with five times as many images as are in the test parts."""
        metrics = [metrics_of(histogram) for histogram in test.values()]
        return DataSummary(
            folder="ham10000",
            layout="HAM10000",
            images=5 * sum(found.images for found in metrics),
            melanomas=5 * sum(found.melanomas for found in metrics),
            groups=5 * sum(found.patients for found in metrics),
            groups_by=self.groups_by,
            synthetic=self.synthetic,
            left_out=left_out,
        )

    def _counts(self, study: StudyProtocol, name: str, histogram: Histogram) -> Counts:
        """What a clinic tells: three fifths of its data are for training, a fifth each for validation and test."""
        metrics, numbers = metrics_of(histogram), {}
        for part, share in {"train": 3, "validation": 1, "test": 1}.items():
            sizes = {"images": metrics.images, "positives": metrics.melanomas, "groups": metrics.patients}
            if part in unit_parts(study):
                sizes = {"units": metrics.patients, "positive_units": min(metrics.melanomas, metrics.patients)}
            numbers |= {f"{part}_{what}": share * size for what, size in sizes.items()}
        noised = self.privacy is not None and name not in self.declared
        return Counts(numbers=numbers, noise=COUNT_NOISE if noised else 0.0, synthetic=name in self.rendered)

    def _clinic(
        self, study: StudyProtocol, name: str, counts: Counts, histogram: Histogram, rng: np.random.Generator
    ) -> ClinicSummary:
        metrics, sums = metrics_of(histogram), totals(study, [counts])
        everywhere = metrics_of(scores(rng, 1600, 0.13, skill=1.1)) if self.mode == "local" else None
        return ClinicSummary(
            name=name,
            patients=sums.patients,
            images=sums.images,
            melanomas=sums.melanomas,
            counted=counted(study, [counts]),
            test=metrics,
            everywhere=everywhere,
        )

    def _round(self, number: int, rng: np.random.Generator) -> RoundSummary:
        failed, declined = (self.failed, self.declined) if number == 2 else ({}, {})
        size = 13_510_000 * (len(self.clinics) if self.mode == "federated" else 0)
        return RoundSummary(
            round=number,
            train_loss=None if self.privacy else 0.25 + 0.35 * float(np.exp(-number / 2)),
            validation=metrics_of(self._scores(rng, 800, 0.13, skill=1.7 - 1.2 / number)),
            seconds=float(rng.uniform(230, 260)),
            bytes_up=size,
            bytes_down=size,
            answered=tuple(name for name in self.clinics if name not in failed | declined),
            failed=failed,
            declined=declined,
        )


def accounts(study: StudyProtocol, clinics: Sequence[str]) -> dict[str, ReportedAccount]:
    """What each clinic says of its privacy: each spent a little less than the one before."""
    if study.privacy is None:
        return {}
    noise = study.privacy.noise_multiplier
    sigma, most = (8.2134, study.privacy.epsilon or 2.5) if noise is None else (noise, 2.5)
    evaluation = None if study.privacy.evaluation == "public" else min(sigma, 1) * EVALUATION_NOISE
    return {
        name: ReportedAccount(
            most * (0.9934 - number / 100) if sigma else None, f"{number + 10:02x}" * 32, sigma, evaluation
        )
        for number, name in enumerate(clinics)
    }


Scored = tuple[np.ndarray, np.ndarray, list[int]]


def scores(
    rng: np.random.Generator, images: int, melanoma_rate: float, *, skill: float, shift: float = 0.0
) -> ScoreHistogram:
    """Scores of two normal distributions in logit, `skill` standard deviations apart; about 1.3 images a group."""
    logits, targets, groups = _drawn(rng, images, melanoma_rate, skill)
    return ScoreHistogram.from_scores(logits + shift, targets, groups)


def noised_scores(
    rng: np.random.Generator, images: int, melanoma_rate: float, *, skill: float, shift: float = 0.0
) -> NoisyHistogram:
    """The same with noise, which is drawn from `rng` as well."""
    logits, targets, groups = _drawn(rng, images, melanoma_rate, skill)
    logits = logits + shift
    part = (logits, targets, [str(group) for group in groups])
    return noised_histograms({"test": part}, EVALUATION_NOISE, NoiseSource(rng.bytes), edges_around(0.0, 1.0))["test"]


def _drawn(rng: np.random.Generator, images: int, melanoma_rate: float, skill: float) -> Scored:
    targets = rng.random(images) < melanoma_rate
    logits = rng.normal(-2.4 + skill * 1.2 * targets, 1.2)
    groups = np.sort(rng.integers(0, max(1, round(images / 1.3)), images)).tolist()
    return logits, targets.astype(int), groups
