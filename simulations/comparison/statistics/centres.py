"""The centres that a benchmark names, and which of them the data at hand hold."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from melfed.common.data.records import LesionRecord, group_ids
from melfed.simulations.comparison.spec import Comparison


@dataclass(frozen=True)
class Centre:
    """A centre, and what there is of it.

    Attributes:
        name: as the comparison calls it; "" of sources that are no centre of it.
        sources: as the data's table calls them; none where the centre is absent.
        images: of it.
        melanomas: images of melanomas.
        groups: patients, else lesions, duplicates, images: what no split takes apart.
    """

    name: str
    sources: tuple[str, ...]
    images: int
    melanomas: int
    groups: int


def centres_of(comparison: Comparison, records: Sequence[LesionRecord]) -> tuple[Centre, ...]:
    """Return the centres that a comparison names, in its order, and at the end what is of none of them.

    A source belongs to the first centre that one of its names, or shell patterns, fits.
    """
    if not comparison.centres:
        return ()
    images = Counter(record.source for record in records)
    melanomas = Counter(record.source for record in records if record.target)
    groups = Counter(source for source, _ in {*zip((r.source for r in records), group_ids(records), strict=True)})
    sources: dict[str, list[str]] = {name: [] for name in (*comparison.centres, "")}
    for source in sorted(images):
        sources[_centre(comparison, source)].append(source)
    counted = (
        Centre(name, tuple(own), *(sum(count[each] for each in own) for count in (images, melanomas, groups)))
        for name, own in sources.items()
    )
    return tuple(centre for centre in counted if centre.name or centre.sources)


def _centre(comparison: Comparison, source: str) -> str:
    fits = (n for n, patterns in comparison.centres.items() if any(fnmatchcase(source, each) for each in patterns))
    return next(fits, "")
