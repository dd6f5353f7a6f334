"""What a clinic's scores become before they leave: histograms, of whole parts and by subgroups of the test part.

In a private study they are noised, and paid for by the clinic's ledger; unless the study declares these images public.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from melfed.client.data.split import Part
from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noised_subgroups import noised_subgroups
from melfed.client.privacy.noisy_evaluation import Scores, noised_histograms
from melfed.client.privacy.plan import plan_of, privacy_of
from melfed.client.privacy.units import privacy_units
from melfed.client.rpc.api import Scored
from melfed.client.worker.guard import Arrays, Guard, Request
from melfed.common.data.dataset import Images
from melfed.common.messages import LOCAL, SUBGROUPS
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy_histogram import Histogram, NoisyHistogram, histograms_from_arrays
from melfed.common.metrics.score_bins import MOST_BINS
from melfed.common.metrics.score_edges import score_edges
from melfed.common.metrics.subgroups import exact_subgroups
from melfed.common.study.evaluation_noise import noised_attributes
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import group_of, in_group

Evaluated = Literal["validation", "test"]
EVALUATED: tuple[Evaluated, ...] = ("validation", "test")
Scoring = Callable[[Evaluated], npt.NDArray[np.float64]]
"""Returns the logits of a part's images; called once something has been paid for."""


def has_noise(study: StudyProtocol) -> bool:
    """Tell whether a study's scores leave a clinic with noise."""
    return study.privacy is not None and study.privacy.evaluation == "noised"


@dataclass(frozen=True)
class Evaluation:
    """How one study's scores leave one clinic.

    Attributes:
        study: which.
        guard: ledger and policy; None where the study needs none.
        images: returns a part's images.
    """

    study: StudyProtocol
    guard: Guard | None
    images: Callable[[Part], Images]

    def histograms(self, scores: Scoring, request: Request, parts: tuple[Evaluated, ...]) -> Scored:
        """Return histograms of the scores of some parts. Raises DeclinedError, LedgerError as `Guard.pay`."""
        if not has_noise(self.study):
            return {part: self._exact(scores, part) for part in parts}
        edges = score_edges(request.tensors, self.study.model.neck)

        def compute() -> Arrays:
            scored = {part: (scores(part), self.images(part).targets, self._units(part)) for part in parts}
            noised = noised_histograms(scored, self._sigma("evaluation"), NoiseSource(), edges)
            return {k: a for part, h in noised.items() for k, a in in_group(part, h.to_arrays()).items()}

        arrays = self._paid().pay("evaluation", request, compute)
        return {part: NoisyHistogram.from_arrays(group_of(part, arrays)) for part in parts}

    def by_subgroup(self, scores: Scoring, request: Request) -> Scored:
        """Return the test part's histograms by cell; none where the study asks for none. Raises as `histograms`."""
        attributes = noised_attributes(self.study)
        if not attributes:
            return {}
        images = self.images("test")
        found: Mapping[str, Histogram]
        if not has_noise(self.study):
            found = exact_subgroups(images.records, scores("test"), images.groups, attributes, self._most_bins())
        else:
            edges = score_edges(request.tensors, self.study.model.neck)

            def compute() -> Arrays:
                content = images.records, scores("test"), self._units("test"), attributes
                noised = noised_subgroups(*content, self._sigma("subgroups"), NoiseSource(), edges)
                return {k: a for cell, h in noised.items() for k, a in in_group(cell, h.to_arrays()).items()}

            found = histograms_from_arrays(self._paid().pay("subgroups", request, compute))
        return {f"{SUBGROUPS}/{cell}": histogram for cell, histogram in found.items()}

    def of_own_model(self, scores: Scoring, request: Request) -> Scored:
        """Return the test part's histogram of the model that the clinic has trained alone; `scores` are that one's.

        Its bins are those of the global model, which are known to whoever asks. Raises as `histograms`.
        """
        if not has_noise(self.study):
            return {LOCAL: self._exact(scores, "test")}
        edges = score_edges(request.tensors, self.study.model.neck)

        def compute() -> Arrays:
            scored: dict[Evaluated, Scores] = {
                "test": (scores("test"), self.images("test").targets, self._units("test"))
            }
            return noised_histograms(scored, self._sigma("baseline"), NoiseSource(), edges)["test"].to_arrays()

        return {LOCAL: NoisyHistogram.from_arrays(self._paid().pay("baseline", request, compute))}

    def _exact(self, scores: Scoring, part: Evaluated) -> ScoreHistogram:
        images = self.images(part)
        return ScoreHistogram.from_scores(scores(part), images.targets, images.groups, self._most_bins())

    def _most_bins(self) -> int:
        policy = self.guard.protection.policy if self.guard else None
        return policy.score_bins if policy else MOST_BINS

    def _sigma(self, purpose: Literal["evaluation", "subgroups", "baseline"]) -> float:
        plan = plan_of(self.study)
        mechanism = {"evaluation": plan.evaluation, "subgroups": plan.subgroups, "baseline": plan.baseline}[purpose]
        assert mechanism is not None  # noqa: S101 (it is paid for)
        return mechanism.noise_multiplier

    def _paid(self) -> Guard:
        assert self.guard is not None  # noqa: S101 (a private study's worker has one)
        return self.guard

    def _units(self, part: Part) -> list[str]:
        return privacy_units(self.images(part).records, privacy_of(self.study).unit)
