"""Records of made-up sources, for tests of starts and necks."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from melfed.common.data.records import LesionRecord


def record(image: str, source: str, target: int, lesion: str | None = None) -> LesionRecord:
    return LesionRecord(
        image,
        target,
        None,
        patient_id=None,
        lesion_id=lesion,
        dup_group=None,
        age=None,
        sex=None,
        site=None,
        source=source,
    )


def of_sources(counts: Sequence[tuple[str, int, int]]) -> list[LesionRecord]:
    """Records of each source: (name, without melanoma, with)."""
    return [
        record(f"{name}{target}_{number}.jpg", name, target)
        for name, *both in counts
        for target, count in enumerate(both)
        for number in range(count)
    ]


def features_of(records: Sequence[LesionRecord], inputs: int = 12, seed: int = 0) -> npt.NDArray[np.float32]:
    """Features in which sources and classes differ, and neighbouring inputs go together, shape (n, inputs)."""
    random = np.random.default_rng(seed)
    names = sorted({each.source for each in records})
    shifts = dict(zip(names, random.normal(size=(len(names), inputs)), strict=True))
    melanoma = random.normal(size=inputs)
    mixing = np.eye(inputs) + 0.5 * random.normal(size=(inputs, inputs)) / np.sqrt(inputs)
    rows = [random.normal(size=inputs) @ mixing + 2 * shifts[each.source] + each.target * melanoma for each in records]
    return np.array(rows, np.float32)
