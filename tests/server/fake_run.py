"""Run folders with invented results, for tests of whatever reads a finished run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from common.histogram import ScoreHistogram
from common.metrics import histogram_metrics
from common.protocol import DataSpec, FederationSpec, ModelSpec, StudyProtocol
from server.run_folder import RunFolder
from server.summary import ClinicSummary, DataSummary, LeftOutImage, RoundSummary, RunSummary, StudyIdentity

CLINICS = ("vidir_molemax", "vidir_modern", "rosendahl", "vienna_dias")
ROUNDS = 5
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
    groups_by: str = "lesion"
    failed: dict[str, str] = field(default_factory=dict)  # clinic and reason, in round 2
    left_out: Sequence[tuple[str, str]] = LEFT_OUT
    seed: int = 0

    def write(self, path: Path) -> RunFolder:
        """Write study, events and summary, as a run does; the report is left to the test."""
        rng = np.random.default_rng(self.seed)
        mode = FederationSpec(mode=self.mode, rounds=self.rounds)
        model = ModelSpec(weights_sha256="57934424" + 56 * "0")
        study = StudyProtocol(name=self.name, data=DataSpec(), model=model, federation=mode)
        folder = RunFolder.create(path, study)
        test = {}
        for name, images, rate in zip(self.clinics, self.images, self.melanoma_rates, strict=True):
            test[name] = scores(rng, images, rate, skill=1.7)
            folder.append({"event": "test", "clinic": name, "round": 0, "histogram": test[name].to_lists()})
        folder.write_summary(self._summary(study, test, rng))
        return folder

    def _summary(self, study: StudyProtocol, test: dict[str, ScoreHistogram], rng: np.random.Generator) -> RunSummary:
        pooled = sum(test.values(), ScoreHistogram.empty())
        clinics = tuple(self._clinic(name, histogram, rng) for name, histogram in test.items())
        left_out = tuple(LeftOutImage(image=image, reason=reason) for image, reason in self.left_out)
        return RunSummary(
            melfed="0.1.0",
            study=StudyIdentity(name=study.name, digest=study.digest),
            mode=self.mode,
            data=DataSummary(
                folder="ham10000",
                layout="HAM10000",
                images=sum(clinic.images for clinic in clinics),
                melanomas=sum(clinic.melanomas for clinic in clinics),
                groups=sum(clinic.patients for clinic in clinics),
                groups_by=self.groups_by,
                synthetic=self.synthetic,
                left_out=left_out,
            ),
            test=histogram_metrics(pooled),
            clinics=clinics,
            privacy=None,
            rounds=tuple(self._round(number, rng) for number in range(1, self.rounds + 1)),
            seconds=1312.4,
            versions={"python": "3.11.9", "melfed": "0.1.0", "flwr": "1.41.0", "torch": "2.15.0"},
            device="cpu",
        )

    def _clinic(self, name: str, histogram: ScoreHistogram, rng: np.random.Generator) -> ClinicSummary:
        metrics = histogram_metrics(histogram)
        everywhere = histogram_metrics(scores(rng, 1600, 0.13, skill=1.1)) if self.mode == "local" else None
        return ClinicSummary(
            name=name,
            patients=metrics.patients * 5,
            images=metrics.images * 5,
            melanomas=metrics.melanomas * 5,
            test=metrics,
            everywhere=everywhere,
        )

    def _round(self, number: int, rng: np.random.Generator) -> RoundSummary:
        failed = self.failed if number == 2 else {}
        size = 13_510_000 * (len(self.clinics) if self.mode == "federated" else 0)
        return RoundSummary(
            round=number,
            train_loss=0.25 + 0.35 * float(np.exp(-number / 2)),
            validation=histogram_metrics(scores(rng, 800, 0.13, skill=1.7 - 1.2 / number)),
            seconds=float(rng.uniform(230, 260)),
            bytes_up=size,
            bytes_down=size,
            answered=tuple(name for name in self.clinics if name not in failed),
            failed=failed,
        )


def scores(rng: np.random.Generator, images: int, melanoma_rate: float, *, skill: float) -> ScoreHistogram:
    """Scores of two normal distributions in logit, `skill` standard deviations apart; about 1.3 images a group."""
    targets = rng.random(images) < melanoma_rate
    logits = rng.normal(-2.4 + skill * 1.2 * targets, 1.2)
    groups = np.sort(rng.integers(0, max(1, round(images / 1.3)), images)).tolist()
    return ScoreHistogram.from_scores(1 / (1 + np.exp(-logits)), targets.astype(int), groups)
