"""What of a clinic's reply may be believed: every check that stands between a reply and the global model."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from melfed.common.compression import restored
from melfed.common.data.subgroups import cell_names
from melfed.common.errors import DataError, DeclinedError, StudyError
from melfed.common.messages import (
    ACCOUNT,
    COUNTS,
    IDENTITY,
    LEDGER,
    LOCAL,
    METRICS,
    REQUEST,
    SUBGROUPS,
    SUMMARISED,
    TENSORS,
    TEST,
    VALIDATION,
)
from melfed.common.metrics.histogram import MAX_IMAGES, ScoreHistogram
from melfed.common.metrics.noisy_histogram import (
    REACH,
    Histogram,
    NoisyHistogram,
    histogram_from_arrays,
    histograms_from_arrays,
    noise_variance,
)
from melfed.common.metrics.score_bins import MOST_BINS
from melfed.common.metrics.score_edges import score_edges
from melfed.common.metrics.subgroups import variance_of_subgroups
from melfed.common.moments.noisy_moments import CLASSES, SCALE, NoisyMoments
from melfed.common.moments.noisy_moments import noise_variance as noise_variance_of_moments
from melfed.common.study.count_noise import largest_count_noise, unit_parts
from melfed.common.study.evaluation_noise import largest_multiplier, noised_attributes, subgroups_multiplier
from melfed.common.study.moments_noise import largest_moments_multiplier, of_moments
from melfed.common.study.protocol import StudyProtocol, validates
from melfed.common.tensors import Array, TensorError, Tensors, check_tensors, shapes
from melfed.server.aggregation.robust import update_norm
from melfed.server.federation.channel import Reply, one_line
from melfed.server.runs.counts import IN_IMAGES, IN_UNITS, PARTS, Counts
from melfed.server.runs.outcome import ReportedAccount
from melfed.server.runs.releases import Release

MAX_LOSS = 1e12
MAX_EVALUATED = MAX_IMAGES // 10
"""Images, or units, of a part to be scored that a clinic may have, so that none fills up the sum of all alone."""
MAX_NAME = 200
MAX_NORM = 1e12
"""Of an update, whatever the study allows: its squares, and sums of them over all rounds, are finite in float32."""
USELESS = (TensorError, DataError, StudyError, DeclinedError)
"""What is raised for a reply that cannot be used; the round goes on without it."""
_HEAD = re.compile(r"[0-9a-f]{64}")
_ORIGINS = {"True": True, "False": False}


@dataclass(frozen=True)
class Update:
    """A training reply that has passed all checks.

    Attributes:
        tensors: the clinic's model, float32.
        weight: of the clinic in the mean: images that it was trained on, or in a private study units as it tells them.
        loss: the mean training loss; 0 in a private study, which tells none.
        validation: the histogram of the model that the clinic was sent, where one is due.
        account: what the clinic says of its privacy, in a private study.
        size: bytes of the reply.
    """

    tensors: Tensors
    weight: float
    loss: float
    validation: Histogram | None
    account: ReportedAccount | None
    size: int


@dataclass(frozen=True)
class ClinicEvaluation:
    """An evaluation reply that has passed all checks.

    Attributes:
        test: histogram of the test part.
        validation: that of the validation part.
        account: what the clinic says of its privacy, in a private study.
        subgroups: histograms of the test part by cell (`melfed.common.data.subgroups.cell_names`), as the study asks.
        local: the test part's histogram of the model that the clinic has trained alone, where the study asks for it.
    """

    test: Histogram
    validation: Histogram
    account: ReportedAccount | None
    subgroups: Mapping[str, Histogram] = field(default_factory=dict)
    local: Histogram | None = None


@dataclass(frozen=True)
class Intake:
    """Checks replies to one run's requests. Every method raises one of `USELESS` where a reply cannot be used."""

    study: StudyProtocol
    run: str

    def update(self, reply: Reply, number: int, counts: Counts, model: Mapping[str, Array]) -> Update:
        """Return a training reply's content.

        Args:
            reply: of a clinic that was asked to train.
            number: the round, 1-based.
            counts: what the clinic said of itself.
            model: the global model that it was sent.
        """
        self._check_request(reply, number)
        weight = self._weight(reply, counts)
        loss = 0.0 if self.study.privacy else reply.number(METRICS, "loss")
        if not 0 <= loss <= MAX_LOSS:
            raise DataError(f"its training loss is {loss:g}; lower the learning rate")
        account = self.account(reply)
        tensors = reply.arrays(TENSORS)
        if (kind := self.study.federation.compression) != "none":
            tensors = dict(restored(tensors, model, kind))
        check_tensors(tensors, shapes(model))
        update = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
        self._check_norm(update, model)
        due = validates(self.study, number - 1)
        validation = self._histogram(reply, VALIDATION, counts, account, model) if due else None
        return Update(update, weight, loss, validation, account, reply.size)

    def evaluation(self, reply: Reply, number: int, counts: Counts, model: Tensors) -> ClinicEvaluation:
        """Return an evaluation reply's content; `number` is that of the last round, and `model` was evaluated."""
        self._check_request(reply, number)
        account = self.account(reply)
        test = self._histogram(reply, TEST, counts, account, model)
        validation = self._histogram(reply, VALIDATION, counts, account, model)
        asked = self.study.evaluation.local_baseline
        local = self._histogram(reply, TEST, counts, account, model, LOCAL) if asked else None
        return ClinicEvaluation(test, validation, account, self._subgroups(reply, test, counts, account), local)

    def _subgroups(
        self, reply: Reply, test: Histogram, counts: Counts, account: ReportedAccount | None
    ) -> dict[str, Histogram]:
        """Return the histograms by cell: those that the study asks for, and no others; `test` is of them together."""
        attributes, found = noised_attributes(self.study), histograms_from_arrays(reply.arrays(SUBGROUPS))
        if set(found) != set(asked := cell_names(attributes)):
            raise DataError(
                f"tells {len(found)} subgroups of its test images, and the study has {len(asked)}; use the same melfed "
                "version"
            )
        for cell, histogram in found.items():
            if isinstance(histogram, NoisyHistogram) != isinstance(test, NoisyHistogram):
                raise DataError(f"its subgroup {cell} and its test images differ in whether they have noise")
            if isinstance(histogram, NoisyHistogram) and isinstance(test, NoisyHistogram) and account is not None:
                self._check_noised_cell(histogram, test, cell, counts, account)
        for attribute in attributes:
            of_cells = [h for cell, h in found.items() if cell.startswith(f"{attribute}/")]
            images = sum(h.images for h in of_cells if isinstance(h, ScoreHistogram))
            if isinstance(test, ScoreHistogram) and images != test.images:
                raise DataError(f"its subgroups by {attribute} have {images} images, its test part {test.images}")
            if any(isinstance(h, ScoreHistogram) and len(h.low) > MOST_BINS for h in of_cells):
                raise DataError(f"a subgroup by {attribute} has more than {MOST_BINS} score bins")
        return found

    def _check_noised_cell(
        self, histogram: NoisyHistogram, test: NoisyHistogram, cell: str, counts: Counts, account: ReportedAccount
    ) -> None:
        if not np.array_equal(histogram.edges, test.edges):
            raise DataError(f"its subgroup {cell} has other score bins than the model; update melfed")
        sigma = subgroups_multiplier(self.study, account.evaluation_noise_multiplier or 0.0)
        if histogram.noise_variance[0] != variance_of_subgroups(sigma, len(noised_attributes(self.study))):
            raise DataError(f"its subgroup {cell} states other noise than its account")
        units = min(counts.most_units(TEST), self._largest(TEST))
        if histogram.largest > units + REACH * histogram.noise_std:
            raise DataError(f"its subgroup {cell} counts more units than the {counts.of(TEST, 'units')} that it told")

    def release(self, reply: Reply, counts: Counts) -> Release:
        """Return the moments of a clinic that was asked for them; `counts` is what it said of itself."""
        self._check_request(reply, 1)
        account = self.account(reply)
        moments = {part: NoisyMoments.from_arrays(reply.arrays(part)) for part in SUMMARISED}
        for part, of_part in moments.items():
            self._check_moments(of_part, part, counts, account)
        return Release(**moments, counts=counts, account=account, size=reply.size)

    def _check_moments(self, moments: NoisyMoments, part: str, counts: Counts, account: ReportedAccount | None) -> None:
        """Check that moments have the noise that was accounted for, and no more units than the clinic may have."""
        privacy = self.study.privacy
        if moments.features != self.study.head_features:
            raise DataError(f"its {part} moments are of {moments.features} features, not {self.study.head_features}")
        noise = of_moments(self.study, account.noise_multiplier if account else 0.0)
        if privacy is not None and not noise <= (most := largest_moments_multiplier(self.study, privacy)):
            raise DataError(f"the σ of its moments is {noise:.4g}; the study needs none above {most:.4g}")
        if moments.noise_variance != noise_variance_of_moments(noise):
            raise DataError(f"its {part} moments state other noise than its account")
        units = min(counts.most_units(part), self._largest(part)) if counts.of(part, "units") else self._largest(part)
        largest = max(float(np.abs(getattr(moments, name).astype(np.float64)).max()) for name in CLASSES) / SCALE
        if largest > units + REACH * moments.noise_std:
            raise DataError(f"its {part} moments count more units than it told; update melfed there")

    def counts(self, reply: Reply, name: str) -> Counts:
        """Return what a clinic says of its data."""
        privacy, noise = self.study.privacy, reply.number(COUNTS, "noise")
        most = largest_count_noise(privacy) if privacy else 0.0
        if not 0 <= noise <= most:
            raise DataError(
                f"clinic {name} counts with noise of {noise:.4g}; the study needs none above {most:.4g}; use the same "
                "melfed version"
            )
        numbers: dict[str, int] = {}
        for part in PARTS:
            units = part in unit_parts(self.study)
            # With noise, a clinic may seem larger than it is.
            largest = self._largest(part) + (REACH * noise + 1 if units else 0)
            for what in IN_UNITS if units else IN_IMAGES:
                number = reply.number(COUNTS, f"{part}_{what}")
                if not (0 <= number <= largest and number == int(number)):
                    raise DataError(f"clinic {name} counts {number:g} {part} {what.replace('_', ' ')}")
                numbers[f"{part}_{what}"] = int(number)
            whole, *some = (numbers[f"{part}_{what}"] for what in (IN_UNITS if units else IN_IMAGES))
            if max(some) > whole:
                raise DataError(f"clinic {name} counts {max(some)} of {whole} {part} {'units' if units else 'images'}")
        return Counts(numbers=numbers, noise=noise, synthetic=self._synthetic(reply, name))

    @staticmethod
    def _synthetic(reply: Reply, name: str) -> bool:
        """Return what a clinic says of its pictures' origin."""
        said = reply.text(IDENTITY, "synthetic")
        if said not in _ORIGINS:
            answer = repr(one_line(said)[:MAX_NAME]) if said else "nothing"
            raise DataError(
                f"clinic {name} says {answer} of whether its images are synthetic, not True or False; use the same "
                "melfed version"
            )
        return _ORIGINS[said]

    def account(self, reply: Reply) -> ReportedAccount | None:
        """Return what a private study's clinic says of its privacy; None of a study without."""
        if self.study.privacy is None:
            return None
        epsilon, noise, evaluation = (
            reply.number(ACCOUNT, key) for key in ("epsilon", "noise_multiplier", "evaluation")
        )
        head = reply.text(LEDGER, "head")
        # Each comparison is written so that a value that is not a number fails it.
        said = epsilon >= 0 and 0 <= noise < math.inf and _HEAD.fullmatch(head)
        noised = self.study.privacy.evaluation == "noised"
        if not said or not (0 <= evaluation < math.inf if noised else math.isnan(evaluation)):
            raise DataError("its privacy account is missing or makes no sense; use the same melfed version")
        if noised and not evaluation <= (most := largest_multiplier(self.study, self.study.privacy)):
            raise DataError(f"the σ of its histograms is {evaluation:.4g}; the study needs none above {most:.4g}")
        return ReportedAccount(epsilon if epsilon < math.inf else None, head, noise, evaluation if noised else None)

    def _check_request(self, reply: Reply, number: int) -> None:
        raise_refusal(reply)
        expected = {"digest": self.study.digest, "round": str(number)}
        if any(reply.text(REQUEST, key) != value for key, value in expected.items()):
            raise StudyError("the reply is to another study or round")
        if reply.text(REQUEST, "run") != self.run:
            raise StudyError("the reply is to another run")

    def _largest(self, part: str) -> int:
        """Return how many images, or units, of a part the study lets a clinic have."""
        largest = self.study.federation.largest_clinic
        return largest if part == "train" else min(largest, MAX_EVALUATED)

    def most_weight(self, counts: Counts) -> int:
        """Return the largest weight in the mean that a clinic may have, by what it said of itself."""
        return min(counts.weight(self.study), self._largest("train"))

    def _weight(self, reply: Reply, counts: Counts) -> int:
        """Return the clinic's weight. One that noise makes larger than the study's largest clinic weighs as that."""
        weight, said = reply.number(METRICS, "weight"), counts.weight(self.study)
        if not (1 <= weight <= said and weight == int(weight)):
            what = "images" if self.study.privacy is None else "units"
            raise DataError(f"claims a weight of {weight:g}, said {said} training {what} before")
        return min(int(weight), self.most_weight(counts))

    def _check_norm(self, update: Tensors, model: Mapping[str, Array]) -> None:
        norm, largest = update_norm(update, model), self.study.federation.largest_update_norm
        if not norm <= MAX_NORM:
            raise DataError(f"its update has norm {norm:.4g}, beyond all use ({MAX_NORM:g}); lower the learning rate")
        if largest is not None and not norm <= largest:
            raise DataError(f"its update has norm {norm:.4g}, more than federation.largest_update_norm ({largest:g})")

    def _histogram(
        self,
        reply: Reply,
        part: str,
        counts: Counts,
        account: ReportedAccount | None,
        model: Mapping[str, Array],
        record: str | None = None,
    ) -> Histogram:
        histogram = histogram_from_arrays(reply.arrays(record or part))
        noised = self.study.privacy is not None and self.study.privacy.evaluation == "noised"
        if isinstance(histogram, NoisyHistogram) != noised:
            raise DataError(f"its {part} histogram has {'no ' if noised else ''}noise, against the study")
        if isinstance(histogram, ScoreHistogram) and histogram.images != counts.of(part, "images"):
            raise DataError(f"scored {histogram.images} {part} images, not {counts.of(part, 'images')}")
        if isinstance(histogram, ScoreHistogram) and len(histogram.low) > MOST_BINS:
            raise DataError(f"its {part} histogram has {len(histogram.low)} score bins, more than {MOST_BINS}")
        if isinstance(histogram, NoisyHistogram):
            edges = score_edges(model, self.study.model.neck)
            if not np.array_equal(histogram.edges, edges):
                raise DataError(f"its {part} histogram has other score bins than the model; update melfed")
        if isinstance(histogram, NoisyHistogram) and account is not None:
            self._check_noised(histogram, part, counts, account)
        return histogram

    def _check_noised(self, histogram: NoisyHistogram, part: str, counts: Counts, account: ReportedAccount) -> None:
        """Check that a histogram has the noise that was accounted for, and no more units than the clinic may have."""
        if histogram.noise_variance[0] != noise_variance(account.evaluation_noise_multiplier or 0.0):
            raise DataError(f"its {part} histogram states other noise than its account")
        units = min(counts.most_units(part), self._largest(part))
        if histogram.largest > units + REACH * histogram.noise_std:
            raise DataError(f"its {part} histogram counts more units than the {counts.of(part, 'units')} that it told")


def raise_refusal(reply: Reply) -> None:
    """Raise what a clinic gave as the reason for no answer."""
    if reply.declined is not None:
        raise DeclinedError(reply.declined)
    if reply.error is not None:
        raise DataError(reply.error)


def check_name(name: str) -> str:
    """Return what a clinic calls itself. Raises DataError where that cannot be printed as it is."""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise DataError(f"calls itself {name[:MAX_NAME]!r}; a name has 1 to {MAX_NAME} printable characters")
    return name
