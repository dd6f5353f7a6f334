"""`privacy.recipe: auto`: what to train, and how, for so many patients and such an ε.

It looks at public quantities alone: the study's own `privacy.epsilon` and `privacy.patients` (a round guess, not a
count). Keys that the study states are never changed, and the others are chosen to go with them. What decides is how the
noise of a round compares with the signal: noise in the mean gradient has the norm σC√d/(qN) for d parameters and N
patients, so few patients or a small ε leave room for few parameters only.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from melfed.common.errors import StudyError
from melfed.common.model.backbones import backbone_spec
from melfed.common.model.backbones.timm_models import is_timm
from melfed.common.study.evaluation_noise import noised_attributes
from melfed.common.study.head_steps import ROUNDS, HeadSteps, Room, best_steps
from melfed.common.study.in_force import idle_keys
from melfed.common.study.moments_keys import moments_keys, way_of
from melfed.common.study.moments_noise import ASSUMED_EPSILON, START_SHARE, learning_mu
from melfed.common.study.protocol import PrivacySpec, StudyProtocol, require_current

AFFINE_FROM, FULL_FROM = 30_000.0, 300_000.0
"""Patients times ε from which normalisation layers, and from which everything, can be trained under the noise."""

HEAD_RATE, AFFINE_RATE = 0.05, 0.3
"""Learning rates of a plain step of clipped gradients, for momentum 0.9 at the server, without a neck."""

WITHOUT_NECK: Final = HeadSteps(rounds=60, rate=HEAD_RATE, momentum=0.9, average=0.5, loss=math.nan)

VALIDATIONS: Final = 10
"""Of a study that stops early: more of them drown each other's histograms in noise."""
ASSUMED_CLINICS: Final = 4
"""Where the study states none (`partition.clinics`)."""


@dataclass(frozen=True)
class Choice:
    """One key that was chosen, its value, and why."""

    key: str
    value: object
    reason: str


def resolve(study: StudyProtocol) -> tuple[StudyProtocol, tuple[Choice, ...]]:
    """Return the study with its recipe written out (`privacy.recipe: manual`), and what was chosen.

    A study without privacy, or with a manual recipe, comes back as it is, but for the size of the images of a model of
    timm (`timm/NAME`) where the study states none: it is the model's own.

    Raises:
        StudyError: the study is of a version that is not trained any more, states for one round what is of several, or
            names a model that timm has not.

    >>> from melfed.common.study.protocol import PrivacySpec
    >>> study, choices = resolve(StudyProtocol(privacy=PrivacySpec(unit="patient", epsilon=3.0)))
    >>> study.model.train, study.federation.rounds, study.privacy.recipe
    ('head', 60, 'manual')
    >>> choices[0].reason
    "1,000 patients a clinic at ε 3: the noise leaves room for the head's few parameters"
    """
    require_current(study)
    own_size = tuple(_own_size(study))
    privacy = study.privacy
    if privacy is None or privacy.recipe == "manual":
        return (_with(study, own_size) if own_size else study), own_size
    choices = tuple(choice for choice in _choices(study, privacy) if not _stated(study, choice.key))
    # A choice that nothing reads, because of what the study states, is none.
    idle = idle_keys(_with(study, choices))
    choices = (*own_size, *(choice for choice in choices if choice.key not in idle))
    return _with(study, choices), choices


def _own_size(study: StudyProtocol) -> Iterator[Choice]:
    """Yield the size of the images that a model of timm was made for, where the study states none."""
    name, key = study.model.backbone, "data.image_size"
    if is_timm(name) and not _stated(study, key):
        yield Choice(key, backbone_spec(name).size, f"the size that {name} was made for, by timm's configuration")


def _with(study: StudyProtocol, choices: tuple[Choice, ...]) -> StudyProtocol:
    """Return the study with these choices written out."""
    sections: dict[str, dict[str, Any]] = {"privacy": {"recipe": "manual"}} if study.privacy else {}
    for choice in choices:
        section, key = choice.key.split(".")
        sections.setdefault(section, {})[key] = choice.value
    return study.with_sections(sections)


def _stated(study: StudyProtocol, key: str) -> bool:
    """Tell whether the study's author wrote the key."""
    section, name = key.split(".")
    return section in study.model_fields_set and name in getattr(study, section).model_fields_set


def _choices(study: StudyProtocol, privacy: PrivacySpec) -> Iterator[Choice]:
    """Yield what the recipe would choose for every key that it governs."""
    yield from _of_moments(study)
    if study.federation.mode == "one_round":
        return
    part: object = study.model.train
    if study.federation.asks_for_moments:
        part = "head"
    else:
        chosen = _part(study, privacy)
        yield chosen
        part = part if _stated(study, chosen.key) else chosen.value
    steps = _steps(study, privacy, part)
    rounds = study.federation.rounds if _stated(study, "federation.rounds") else steps.rounds
    yield Choice("privacy.sampling_rate", 1.0, "everybody takes part in every step: the best signal for the noise")
    yield Choice("privacy.steps", 1, "one step a round, so that clinics average their noise after each")
    # Where the best round's model is taken, nothing is averaged.
    average = study.federation.stop is None
    yield from (c for c in _of_steps(study, privacy, part, steps) if average or c.key != "federation.tail_average")
    yield Choice("federation.algorithm", "fedavgm", "momentum at the server averages the noise of several rounds")
    yield from _validation(study, rounds)
    yield Choice("training.optimizer", "sgd", "Adam's second moments would measure the noise, not the gradient")
    yield Choice("training.momentum", 0.0, "one step a round: the momentum is the server's")
    yield Choice("training.warmup_steps", 0, "plain steps need none")
    yield Choice("training.gradient_norm", None, "each patient's gradient is clipped already")
    yield Choice("training.weight_decay", 0.0, "the noise and few steps keep the weights small enough")
    yield Choice("training.schedule", "constant", "the average over the later models does what a decay would do")
    yield Choice("training.augment", False, "the frozen part then runs once an image, and its output is kept")


def _validation(study: StudyProtocol, rounds: int) -> Iterator[Choice]:
    """Yield how often the study is validated."""
    every = "federation.validate_every"
    if study.federation.stop is None:
        yield Choice(every, rounds, "one, in the end: each validation costs privacy unless public")
        return
    reason = "some ten, by which federation.stop chooses: each validation costs privacy unless public"
    yield Choice(every, max(1, round(rounds / VALIDATIONS)), reason)


def _of_moments(study: StudyProtocol) -> Iterator[Choice]:
    """Yield what a study has whose clinics release moments. Raises StudyError where it states something else."""
    for key, value in moments_keys(study).items():
        section, name = key.split(".")
        found = getattr(getattr(study, section), name)
        if _stated(study, key) and found != value:
            raise StudyError(f"{key} is {found}, and {way_of(study)} has {value}; leave it out")
        if found != value:
            yield Choice(key, value, "one release a clinic, from which the head is solved")


def _part(study: StudyProtocol, privacy: PrivacySpec) -> Choice:
    """Return what is trained."""
    key, epsilon = "model.train", privacy.epsilon or ASSUMED_EPSILON
    if not study.model.pretrained:
        return Choice(key, "full", "the network starts from scratch, so no part of it is of use as it is")
    scale = f"{privacy.patients:,} {privacy.unit}s a clinic at ε {epsilon:g}"
    if privacy.patients * epsilon < AFFINE_FROM:
        return Choice(key, "head", f"{scale}: the noise leaves room for the head's few parameters")
    if privacy.patients * epsilon < FULL_FROM:
        return Choice(key, "affine", f"{scale}: the noise leaves room for some ten thousand parameters")
    return Choice(key, "full", f"{scale}: the noise leaves room for the whole network")


def _room(study: StudyProtocol, privacy: PrivacySpec) -> Room:
    """Return what a study of a head on a neck leaves to its steps, by public quantities."""
    share = START_SHARE if study.federation.asks_for_moments else 0.0
    clinics = study.partition.clinics or ASSUMED_CLINICS
    mu = learning_mu(privacy, subgroups=bool(noised_attributes(study)))
    return Room(study.head_features, privacy.patients, clinics, mu, share)


def _steps(study: StudyProtocol, privacy: PrivacySpec, part: object) -> HeadSteps:
    """Return the steps for what is trained; of a head on a neck those of `melfed.common.study.head_steps`."""
    if part != "head":
        return replace(WITHOUT_NECK, rate=AFFINE_RATE)
    return best_steps(_room(study, privacy), _rounds(study)) if study.head_features else WITHOUT_NECK


def _rounds(study: StudyProtocol) -> tuple[int, ...]:
    """Return how many rounds there may be."""
    return (study.federation.rounds,) if _stated(study, "federation.rounds") else ROUNDS


def _of_steps(study: StudyProtocol, privacy: PrivacySpec, part: object, steps: HeadSteps) -> Iterator[Choice]:
    """Yield the keys of steps, with what they follow from."""
    if part == "head" and study.head_features:
        yield from _of_head(study, privacy, steps)
    else:
        long = "features of ImageNet have a norm of about 30"
        if part != "head":
            long = "a clipped step moves the network a little"
        enough = "enough to get there; every further step makes the noise of all larger"
        mean = "the mean of the later models has less noise than the last, for free"
        yield Choice("federation.rounds", steps.rounds, enough)
        yield Choice("training.learning_rate", steps.rate, long)
        yield Choice("federation.server_momentum", steps.momentum, "averages the noise of about ten rounds")
        yield Choice("federation.tail_average", steps.average, mean)
    norm = "shorter than most gradients, so all patients count alike"
    if part == "head":
        norm = "the length of a patient's gradient on whitened features, at most"
    yield Choice("privacy.clipping_norm", 1.0, norm)


def _of_head(study: StudyProtocol, privacy: PrivacySpec, steps: HeadSteps) -> Iterator[Choice]:
    """Yield the keys of steps of a head on a neck."""
    room = _room(study, privacy)
    why = (
        f"the least loss to be expected of {room.features} whitened features, for {room.patients:,} {privacy.unit}s "
        f"at each of {room.clinics} clinics at ε {privacy.epsilon or ASSUMED_EPSILON:g}"
    )
    many = f"{why}: with more rounds it would hardly be less"
    if room.start_share:
        times = steps.loss / best_steps(replace(room, start_share=0.0), _rounds(study)).loss
        many += f"; beginning at a solved head it is {times:.2f} times what it is with all ε in the rounds"
    yield Choice("federation.rounds", steps.rounds, many)
    yield Choice("training.learning_rate", steps.rate, why)
    yield Choice("federation.server_momentum", steps.momentum, why)
    yield Choice("federation.tail_average", steps.average, why)
