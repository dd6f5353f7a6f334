"""`privacy.recipe: auto`: what to train, and how, for so many patients and such an ε.

It looks at public quantities alone: the study's own `privacy.epsilon` and `privacy.patients` (a round guess, not a
count). Keys that the study states are never changed, and the others are chosen to go with them. What decides is how the
noise of a round compares with the signal: noise in the mean gradient has the norm σC√d/(qN) for d parameters and N
patients, so few patients or a small ε leave room for few parameters only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from melfed.common.errors import StudyError
from melfed.common.study.in_force import idle_keys
from melfed.common.study.protocol import ONE_ROUND, PrivacySpec, StudyProtocol, require_current

AFFINE_FROM, FULL_FROM = 30_000.0, 300_000.0
"""Patients times ε from which normalisation layers, and from which everything, can be trained under the noise."""

NECK_RATE, HEAD_RATE, AFFINE_RATE = 2.0, 0.05, 0.3
"""Learning rates of a plain step of clipped gradients, for momentum 0.9 at the server."""

ROUNDS = 60

ASSUMED_EPSILON = 1.0
"""For a study that states σ instead of ε: the cautious side."""


@dataclass(frozen=True)
class Choice:
    """One key that was chosen, its value, and why."""

    key: str
    value: object
    reason: str


def resolve(study: StudyProtocol) -> tuple[StudyProtocol, tuple[Choice, ...]]:
    """Return the study with its recipe written out (`privacy.recipe: manual`), and what was chosen.

    A study without privacy, or with a manual recipe, comes back as it is.

    Raises:
        StudyError: the study is of a version that is not trained any more, or states for one round what is of several.

    >>> from melfed.common.study.protocol import PrivacySpec
    >>> study, choices = resolve(StudyProtocol(privacy=PrivacySpec(unit="patient", epsilon=3.0)))
    >>> study.model.train, study.federation.rounds, study.privacy.recipe
    ('head', 60, 'manual')
    >>> choices[0].reason
    "1,000 patients a clinic at ε 3: the noise leaves room for the head's few parameters"
    """
    require_current(study)
    privacy = study.privacy
    if privacy is None or privacy.recipe == "manual":
        return study, ()
    choices = tuple(choice for choice in _choices(study, privacy) if not _stated(study, choice.key))
    # A choice that nothing reads, because of what the study states, is none.
    idle = idle_keys(_with(study, choices))
    choices = tuple(choice for choice in choices if choice.key not in idle)
    return _with(study, choices), choices


def _with(study: StudyProtocol, choices: tuple[Choice, ...]) -> StudyProtocol:
    """Return the study with these choices written out."""
    sections: dict[str, dict[str, Any]] = {"privacy": {"recipe": "manual"}}
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
    if study.federation.mode == "one_round":
        yield from _one_round(study)
        return
    part = _part(study, privacy)
    yield part
    yield from _step(study, study.model.train if _stated(study, part.key) else part.value)
    rounds = study.federation.rounds if _stated(study, "federation.rounds") else ROUNDS
    yield Choice("privacy.sampling_rate", 1.0, "everybody takes part in every step: the best signal for the noise")
    yield Choice("privacy.steps", 1, "one step a round, so that clinics average their noise after each")
    yield Choice("federation.rounds", ROUNDS, "enough to get there; every further step makes the noise of all larger")
    yield Choice("federation.algorithm", "fedavgm", "momentum at the server averages the noise of several rounds")
    yield Choice("federation.server_momentum", 0.9, "averages the noise of about ten rounds")
    yield Choice("federation.tail_average", 0.5, "the mean of the later models has less noise than the last, for free")
    yield Choice("federation.validate_every", rounds, "one, in the end: each validation costs privacy unless public")
    yield Choice("training.optimizer", "sgd", "Adam's second moments would measure the noise, not the gradient")
    yield Choice("training.momentum", 0.0, "one step a round: the momentum is the server's")
    yield Choice("training.warmup_steps", 0, "plain steps need none")
    yield Choice("training.gradient_norm", None, "each patient's gradient is clipped already")
    yield Choice("training.weight_decay", 0.0, "the noise and few steps keep the weights small enough")
    yield Choice("training.schedule", "constant", "the average over the later models does what a decay would do")
    yield Choice("training.augment", False, "the frozen part then runs once an image, and its output is kept")


def _one_round(study: StudyProtocol) -> Iterator[Choice]:
    """Yield what a study of one round has. Raises StudyError where it states something else."""
    for key, value in ONE_ROUND.items():
        section, name = key.split(".")
        found = getattr(getattr(study, section), name)
        if _stated(study, key) and found != value:
            raise StudyError(f"{key} is {found}, and federation.mode one_round has {value}; leave it out")
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


def _step(study: StudyProtocol, part: object) -> Iterator[Choice]:
    """Yield learning rate and clipping for the part of the network that is trained."""
    rate, norm = "training.learning_rate", "privacy.clipping_norm"
    if part != "head":
        yield Choice(rate, AFFINE_RATE, "a clipped step moves the network a little")
        yield Choice(norm, 1.0, "shorter than most gradients, so all patients count alike")
        return
    if study.model.neck:
        yield Choice(rate, NECK_RATE, "whitened features have a norm of about 1")
    else:
        yield Choice(rate, HEAD_RATE, "features of ImageNet have a norm of about 30")
    yield Choice(norm, 1.0, "the length of a patient's gradient on whitened features, at most")
