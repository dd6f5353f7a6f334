"""The catalogue of backbones, a file a family: what each is called, and how it is built.

Importing it loads no torch, so a study can be validated and `--help` printed at once;
`melfed.common.model.classifier` builds what is listed here. A family is a module with `BACKBONES`.
"""

import difflib
from typing import Final

from melfed.common.errors import StudyError
from melfed.common.model.backbones.spec import BackboneSpec
from melfed.common.registry import entries

BACKBONES: Final[dict[str, BackboneSpec]] = {
    name: spec for _, family in entries(__name__, __path__, "BACKBONES") for name, spec in family.items()
}
"""Every backbone by the name that a study uses."""


def backbone_spec(name: str) -> BackboneSpec:
    """Return a backbone's entry.

    Raises:
        StudyError: there is no such backbone; names the nearest one.

    >>> len(BACKBONES), backbone_spec("resnet18").features
    (19, 512)
    >>> backbone_spec("resnet19")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    melfed.common.errors.StudyError: model.backbone: no backbone 'resnet19'; did you mean resnet18? Known: ...
    """
    if name in BACKBONES:
        return BACKBONES[name]
    nearest = difflib.get_close_matches(name, BACKBONES, 1, 0)
    raise StudyError(f"model.backbone: no backbone {name!r}; did you mean {nearest[0]}? Known: {', '.join(BACKBONES)}")
