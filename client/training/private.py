"""Private training: DP-SGD with the patient (or the lesion) as the unit, for one clinic.

A step: every unit takes part with probability q on its own; the gradients of a unit's images, and of their views, are
averaged; the average is clipped to C; the sum over units receives Gaussian noise of standard deviation σC and is
divided by the number of units expected. Abadi et al., arXiv 1607.00133, at the level of users as in McMahan et al.,
arXiv 1710.06963; averaging views before clipping: De et al., arXiv 2204.13650.
"""

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from melfed.client.privacy.calls import calls, rows_of_call
from melfed.client.privacy.gradients import Clipping, PrivateGradients
from melfed.client.privacy.noise import NoiseSource, clipped_sum_std
from melfed.client.privacy.sampling import poisson_sample, secure_generator
from melfed.client.training.inputs import Inputs
from melfed.client.training.optimizer import Adjustment, LocalOptimizer
from melfed.common.model.classifier import Classifier
from melfed.common.model.dropout import seed_dropout
from melfed.common.model.inference import Advance
from melfed.common.study.protocol import PrivacySpec, StudyProtocol
from melfed.common.study.step_plan import Place

Indices = npt.NDArray[np.int64]

CALLS_A_STEP = 8
FEWEST_ROWS = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrivateResult:
    """What a round did. What it saw (losses, norms, how many patients were drawn) stays here and is not kept."""

    steps: int


@dataclass(frozen=True)
class UnitRows:
    """The rows (image and view) of a clinic's training data, ordered by unit.

    Attributes:
        images: image number of each row, shape (rows,).
        views: view number of each row, shape (rows,).
        starts: where each unit's rows begin, and the end of the last, shape (units + 1,).
    """

    images: Indices
    views: Indices
    starts: Indices

    @classmethod
    def of(cls, units: list[str], views: int) -> "UnitRows":
        """Order images by unit (one id an image), each with all its views."""
        number = {unit: index for index, unit in enumerate(dict.fromkeys(units))}
        of_image = np.array([number[unit] for unit in units], np.int64)
        order = np.argsort(of_image, kind="stable")
        counts = np.bincount(of_image, minlength=len(number)) * views
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(np.repeat(order, views), np.tile(np.arange(views), len(order)), starts)

    @cached_property
    def count(self) -> int:
        """Number of units."""
        return len(self.starts) - 1


class PrivateTrainer:
    """A classifier that learns from one clinic's patients under the study's privacy."""

    def __init__(
        self,
        model: Classifier,
        study: StudyProtocol,
        privacy: PrivacySpec,
        device: torch.device,
        adjustment: Adjustment | None = None,
    ) -> None:
        self.model = model
        self.study = study
        self.privacy = privacy
        self.device = device
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = LocalOptimizer(self.parameters, study, adjustment)
        # Never from the study's seed: whoever knows the noise can take it away.
        self.noise, self.random = NoiseSource(), secure_generator()

    def train(
        self,
        inputs: Inputs,
        targets: npt.NDArray[np.float32],
        units: list[str],
        *,
        expected_units: int,
        noise_multiplier: float,
        round_number: int,
        on_progress: Advance | None = None,
    ) -> PrivateResult:
        """Train one round: exactly `privacy.steps` steps.

        Args:
            inputs: runs the network on the training images.
            targets: 0 or 1 an image, shape (images,).
            units: the unit of each image.
            expected_units: how many units the clinic says it trains on, at least 1 (a noised or public number); the
                noisy sum of a step is divided by `sampling_rate` times this.
            noise_multiplier: σ, not negative.
            round_number: 1-based.
            on_progress: called with the number of rows (image and view) so far.

        Raises:
            StudyError: the model has a layer whose private gradients are not known.
        """
        views = inputs.views if inputs.views > 1 else self.privacy.views
        rows, limit = UnitRows.of(units, views), self._rows_a_call(inputs.micro_batch, expected_units * views)
        # Dropout too: by a known seed, one patient more would change the others' masks, and so the sum by more than C.
        seed_dropout(self.device, None)
        self.model.train()
        done = 0
        with PrivateGradients(self.model, self._clipping()) as gradients:
            for step in range(self.privacy.steps):
                gradients.reset()
                chosen = poisson_sample(rows.count, self.privacy.sampling_rate, self.random)
                for call in calls(rows.starts, chosen, limit, self.random):
                    self._add(gradients, inputs, targets, rows.images[call.rows], rows.views[call.rows], call.patients)
                    done += int((call.patients >= 0).sum())
                    if on_progress:
                        on_progress(done)
                if on_progress:
                    # At every step, whoever was drawn: work that is called off ends as soon without any patient.
                    on_progress(done)
                self._release(gradients.sums, noise_multiplier, self.privacy.sampling_rate * expected_units)
                steps = self.privacy.steps
                self.optimizer.step(Place(round_number, step, steps, (round_number - 1) * steps))
        self._make_finite()
        return PrivateResult(self.privacy.steps)

    def _rows_a_call(self, most: int, expected_rows: int) -> int:
        """Return how many rows are computed at a time, by public numbers alone: see `melfed.client.privacy.calls`.

        A step is some eight calls, so that those which are filled up for their shape cost little.
        """
        return rows_of_call(most, max(self.privacy.sampling_rate * expected_rows / CALLS_A_STEP, FEWEST_ROWS))

    @torch.no_grad()
    def _make_finite(self) -> None:
        """Replace what overflowed: whether that happens hangs on the patients, so an error would tell about them.

        The numbers that take its place are made of what is protected already. The server refuses them as too large.
        """
        for parameter in self.parameters.values():
            parameter.nan_to_num_()

    def _clipping(self) -> Clipping:
        return Clipping(self.privacy.clipping_norm, normalised=self.privacy.clipping == "normalised")

    def _add(
        self,
        gradients: PrivateGradients,
        inputs: Inputs,
        targets: npt.NDArray[np.float32],
        images: Indices,
        views: Indices,
        numbers: Indices,
    ) -> None:
        """Add the clipped gradients of some whole units; numbers below 0 are there for the shape alone."""
        wanted = torch.from_numpy(targets[images]).to(self.device)
        weight = torch.tensor(self.study.training.positive_weight, device=self.device)

        def losses() -> torch.Tensor:
            logits = inputs.logits(images, views)
            return F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weight, reduction="none")

        norms = gradients.add(losses, torch.from_numpy(numbers).to(self.device))
        if lost := int(norms.isinf().sum()):
            _log.warning("study %s: %d gradients are not finite and count as 0", self.study.name, lost)

    def _release(self, sums: dict[str, torch.Tensor], noise_multiplier: float, expected: float) -> None:
        """Put the noisy mean of the clipped gradients where the optimiser looks for it."""
        scale = clipped_sum_std(noise_multiplier, self.privacy.clipping_norm)
        for name, parameter in self.parameters.items():
            total = sums[name]
            if scale:
                total = total + torch.from_numpy(self.noise.gaussian(tuple(parameter.shape), scale)).to(total.device)
            parameter.grad = (total / expected).to(parameter.dtype)
