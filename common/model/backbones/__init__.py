"""The catalogue of backbones, a file a family: what each is called, and how it is built; beside it, all of timm's.

Importing it loads no torch, so a study can be validated and `--help` printed at once;
`melfed.common.model.classifier` builds what is listed here. A family is a module with `BACKBONES`.
"""

import difflib
from typing import Final

from melfed.common.errors import StudyError
from melfed.common.model.backbones.spec import BackboneSpec
from melfed.common.model.backbones.timm_models import PREFIX, is_timm, timm_spec
from melfed.common.registry import entries

BACKBONES: Final[dict[str, BackboneSpec]] = {
    name: spec for _, family in entries(__name__, __path__, "BACKBONES") for name, spec in family.items()
}
"""Every backbone of the catalogue by the name that a study uses; those of timm are `timm/NAME`."""

KNOWN: Final = f"{', '.join(BACKBONES)}, and timm/NAME for any model of timm"
"""What an error says of an unknown name."""


def is_backbone(name: str) -> bool:
    """Tell whether a study may name a backbone so; of timm's, only the form of the name is looked at."""
    return name in BACKBONES or is_timm(name)


def own_dropout(name: str) -> float:
    """Return the dropout before the head that belongs to a backbone."""
    return BACKBONES[name].dropout if name in BACKBONES else 0.0


def backbone_spec(name: str) -> BackboneSpec:
    """Return a backbone's entry.

    Raises:
        StudyError: there is no such backbone; names the nearest one.

    >>> len(BACKBONES), backbone_spec("resnet18").features
    (21, 512)
    >>> backbone_spec("resnet19")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    melfed.common.errors.StudyError: model.backbone: no backbone 'resnet19'; did you mean resnet18? Known: ...
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if name.startswith(PREFIX):
        return timm_spec(name)
    nearest = difflib.get_close_matches(name, BACKBONES, 1, 0)
    raise StudyError(f"model.backbone: no backbone {name!r}; did you mean {nearest[0]}? Known: {KNOWN}")
