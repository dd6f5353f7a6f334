"""What a study must be whose clinics release moments: in one round, or for a start that is solved from them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from melfed.common.study.protocol import StudyProtocol

ONE_ROUND: Final[Mapping[str, object]] = {
    "model.train": "head",
    "federation.rounds": 1,
    "privacy.steps": 1,
    "privacy.sampling_rate": 1.0,
}
"""What a study of one round has in these keys; its recipe writes them."""
SOLVED_START: Final[Mapping[str, object]] = {"model.train": "head", "privacy.sampling_rate": 1.0}
"""What a study has in these keys whose rounds begin at a solved head: it is solved for features that stay as they are,
and everybody takes part in every step, so that all that is released is one Gaussian mechanism."""


def way_of(study: "StudyProtocol") -> str:
    """Return the key and value by which a study asks for moments."""
    return "federation.mode one_round" if study.federation.mode == "one_round" else "federation.start one_round"


def moments_keys(study: "StudyProtocol") -> Mapping[str, object]:
    """Return the keys that have one value only where clinics release moments, with it; none where they do not."""
    if not study.federation.asks_for_moments:
        return {}
    return ONE_ROUND if study.federation.mode == "one_round" else SOLVED_START


def check_moments(study: "StudyProtocol") -> None:
    """Raise ValueError where a study asks for moments that it cannot have, or not as it stands."""
    if not study.federation.asks_for_moments:
        return
    way = way_of(study)
    if study.privacy is None:
        raise ValueError(f"{way} is for private studies; noise_multiplier: 0 is no noise")
    if study.model.neck is None:
        raise ValueError(
            f"{way} needs the public features of a neck: state model.neck, and in model.weights "
            "a finished run on public images with that neck (federation.mode: central)"
        )
    for path, value in moments_keys(study).items():
        section, key = path.split(".")
        found = getattr(getattr(study, section), key)
        if study.privacy.recipe == "manual" and found != value:
            raise ValueError(f"{way} has {path} {value}, not {found}")
