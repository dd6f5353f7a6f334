"""Which keys of a study have an effect, by what its other keys say.

A key that somebody states and nothing reads is a mistake of theirs: they would compare two studies that are one and the
same. `refuse_idle` names the first. A key that is not in `RULES` is read in every study.

In the baselines (`federation.mode` central and local) the keys of a federation are judged as in the federated study:
the same file is run in each mode to be compared, and the report says which keys the mode leaves without effect. So it
is where a command's `--set` changes the key that decides, and the file states one that went with its own choice.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from melfed.common.errors import StudyError
from melfed.common.model.backbones.timm_models import is_timm
from melfed.common.study.protocol import StudyProtocol

Reads = Callable[[StudyProtocol], bool]

FEDERATED_ALONE = (
    *("federation." + key for key in ("start", "algorithm", "proximal_mu", "server_learning_rate", "server_momentum")),
    *("federation." + key for key in ("server_beta2", "server_tau", "cohort", "quorum", "tail_average")),
    *("federation." + key for key in ("deadline_seconds", "grace_seconds", "largest_clinic", "largest_update_norm")),
    *("federation." + key for key in ("clip_update_norm", "compression", "robust", "robust_trim")),
    "federation.robust_byzantine",
    "evaluation.local_baseline",
    "resources.cpus",
    "resources.gpus",
)
"""Keys that no baseline reads."""


def changed_keys(before: StudyProtocol, after: StudyProtocol) -> tuple[tuple[str, object, object], ...]:
    """Return the keys in which two studies differ, with both values, in the keys' order; none that no digest has.

    >>> changed_keys(StudyProtocol(), StudyProtocol().with_changes("federation", rounds=7))
    (('federation.rounds', 5, 7),)
    """
    one, two = (dict(_leaves("", json.loads(study.canonical()))) for study in (before, after))
    return tuple((key, one.get(key), two.get(key)) for key in {**one, **two} if one.get(key) != two.get(key))


def _leaves(path: str, content: object) -> Iterator[tuple[str, object]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _leaves(f"{path}.{key}" if path else key, value)
    else:
        yield path, content


@dataclass(frozen=True)
class Rule:
    """When some keys are read, and by what.

    Attributes:
        keys: their paths.
        reads: whether a study reads them, in the federated mode.
        readers: what reads them: "…, which is for READERS alone".
        because: the keys that decide; an error shows their values.
        value: the one value that has no effect; None: no value has any.
    """

    keys: tuple[str, ...]
    reads: Reads
    readers: str
    because: tuple[str, ...]
    value: object = None


def _frozen_prefix(study: StudyProtocol) -> bool:
    """Tell whether a private study trains on stored features, whose views follow from the images."""
    return study.model.train == "head" or (
        study.model.train == "last_block" and study.model.neck is None and not is_timm(study.model.backbone)
    )


def _views_differ(study: StudyProtocol) -> bool:
    return study.privacy is None or study.privacy.views == 1 or study.training.augment or _frozen_prefix(study)


def _rounds(study: StudyProtocol) -> bool:
    return study.federation.mode != "one_round"


TRAINING_ALONE = (
    *("training." + key for key in ("optimizer", "learning_rate", "schedule", "warmup_steps", "gradient_norm")),
    *("training." + key for key in ("weight_decay", "momentum", "batch_size", "local_epochs", "augment")),
    *("federation." + key for key in ("algorithm", "proximal_mu", "server_learning_rate", "server_momentum")),
    *("federation." + key for key in ("server_beta2", "server_tau", "cohort", "validate_every", "tail_average")),
    *("federation." + key for key in ("largest_update_norm", "clip_update_norm", "robust", "robust_trim")),
    *("federation." + key for key in ("robust_byzantine", "start", "stop")),
    *("privacy." + key for key in ("clipping", "clipping_norm", "views")),
    "model.dropout",
)
"""Keys of steps and updates, of which a study of one round has none."""


RULES = (
    Rule(TRAINING_ALONE, _rounds, "studies that train in rounds", ("federation.mode",)),
    Rule(
        ("partition.alpha",),
        lambda study: study.partition.by in {"label_dirichlet", "size_dirichlet", "size_zipf"},
        "partition.by label_dirichlet, size_dirichlet and size_zipf",
        ("partition.by",),
    ),
    Rule(
        ("partition.minimum_images", "training.batch_size", "training.local_epochs"),
        lambda study: study.privacy is None,
        "studies without privacy",
        ("privacy.unit",),
    ),
    Rule(
        ("training.momentum",),
        lambda study: study.training.optimizer == "sgd",
        "training.optimizer sgd",
        ("training.optimizer",),
    ),
    Rule(
        ("training.augment",),
        lambda study: study.privacy is None or not _frozen_prefix(study),
        "studies without privacy, or that train more than what comes after the stored features (see privacy.views)",
        ("privacy.unit", "model.train"),
        value=True,
    ),
    Rule(
        ("federation.proximal_mu",),
        # At a round's first step the model still is the global one, which nothing pulls anywhere.
        lambda study: (
            study.federation.algorithm == "ditto"
            or (study.federation.algorithm == "fedprox" and (study.privacy is None or study.privacy.steps > 1))
        ),
        "federation.algorithm ditto, or fedprox with more than one step a round",
        ("federation.algorithm", "privacy.steps"),
    ),
    Rule(
        ("federation.server_learning_rate", "federation.server_momentum"),
        lambda study: study.federation.algorithm in {"fedavgm", "fedadam", "fedyogi"},
        "federation.algorithm fedavgm, fedadam and fedyogi",
        ("federation.algorithm",),
    ),
    Rule(
        ("federation.server_beta2", "federation.server_tau"),
        lambda study: study.federation.algorithm in {"fedadam", "fedyogi"},
        "federation.algorithm fedadam and fedyogi",
        ("federation.algorithm",),
    ),
    Rule(
        ("federation.grace_seconds",),
        lambda study: study.federation.quorum < 1,
        "federation.quorum below 1",
        ("federation.quorum",),
    ),
    Rule(
        ("federation.robust_trim",),
        lambda study: study.federation.robust == "trimmed_mean",
        "federation.robust trimmed_mean",
        ("federation.robust",),
    ),
    Rule(
        ("federation.robust_byzantine",),
        lambda study: study.federation.robust in {"krum", "multi_krum"},
        "federation.robust krum and multi_krum",
        ("federation.robust",),
    ),
    Rule(
        ("privacy.views",),
        _views_differ,
        "training.augment true, or model.train head or last_block: else all views of an image are the same",
        ("training.augment", "model.train"),
    ),
)


def idle(study: StudyProtocol) -> Iterator[tuple[str, Rule]]:
    """Yield the keys that nothing would read in the study's federated mode, with the rule; `study` is resolved."""
    for rule in RULES:
        if not rule.reads(study):
            for key in rule.keys:
                value = value_of(study, key)
                if value is not _ABSENT and rule.value in {None, value}:
                    yield key, rule


def idle_keys(study: StudyProtocol) -> frozenset[str]:
    """Return all keys without effect: those of `idle`, and in a baseline those that a federation alone has."""
    baseline = () if study.federation.with_clinics else FEDERATED_ALONE
    return frozenset(baseline).union(key for key, _ in idle(study))


def refuse_idle(
    study: StudyProtocol, stated: Callable[[str], bool], changed: Callable[[str], bool], place: Callable[[str], str]
) -> None:
    """Refuse a study that states a key which nothing reads.

    Args:
        study: resolved: what its recipe leaves open is chosen.
        stated: whether the author wrote the key.
        changed: whether a command changed it.
        place: where, as FILE:LINE.

    Raises:
        StudyError: in one line: where, which key, why it has no effect, what to do.
    """
    for key, rule in idle(study):
        switched = any(map(changed, rule.because)) and not changed(key)
        if stated(key) and not switched:
            decide = [name for name in rule.because if value_of(study, name) is not _ABSENT]
            found = [f"{name} is {_shown(value_of(study, name))}" for name in decide]
            raise StudyError(
                f"{place(key)}: {key} would have no effect: it is for {rule.readers} alone, and "
                f"{' and '.join(found)}; leave it out, or change {' or '.join(decide)}"
            )


def in_force(study: StudyProtocol) -> dict[str, Any]:
    """Return the study's content to write down: what follows from other keys as it is in force, without idle defaults.

    Idle keys that are not at their default stay: they are in the digest. Of a study whose recipe has not chosen yet it
    is what the author stated, since what is stated the recipe leaves alone.
    """
    if study.privacy is not None and study.privacy.recipe == "auto":
        return {"protocol": study.protocol, **study.model_dump(mode="json", exclude_unset=True)}
    content: dict[str, Any] = study.model_dump(mode="json")
    default = StudyProtocol().model_dump(mode="json")
    for path, value in study.followed().items():
        section, key = path.split(".")
        content[section][key] = value
        # What it would be if it were left out.
        default[section][key] = study.with_changes(section, **{key: None}).followed()[path]
    for path in idle_keys(study):
        section, key = path.split(".")
        left_out = _default_of(study, path) if section == "privacy" else default[section][key]
        if content[section][key] == left_out:
            del content[section][key]
    if study.partition.classes is None:
        del content["partition"]["classes"]
    return content


def idle_values(study: StudyProtocol) -> dict[str, object]:
    """Return the keys without effect that are not at their default, with their values, for the report."""
    found = {key: value_of(study, key) for key in sorted(idle_keys(study))}
    return {key: value for key, value in found.items() if value != _default_of(study, key)}


def _default_of(study: StudyProtocol, path: str) -> object:
    section, _, key = path.partition(".")
    default: object = type(getattr(study, section)).model_fields[key].default
    return default


_ABSENT = object()


def value_of(study: StudyProtocol, path: str) -> object:
    """Return a key's value; a marker of its own where its section is null."""
    section, _, key = path.partition(".")
    return getattr(getattr(study, section), key, _ABSENT)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def stated_in(content: Mapping[str, Any], path: str) -> bool:
    """Tell whether the content of a study file has a key."""
    section, _, key = path.partition(".")
    inside = content.get(section)
    return isinstance(inside, Mapping) and key in inside
