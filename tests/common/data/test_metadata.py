"""Age, sex and site as numbers."""

import numpy as np

from melfed.common.data.metadata import METADATA_FEATURES, encode_metadata
from melfed.common.data.records import LesionRecord
from melfed.common.data.vocabulary.sites import SITES


def lesion(age: float | None, sex: str | None, site: str | None) -> LesionRecord:
    return LesionRecord(
        image="a.jpg",
        target=0,
        diagnosis=None,
        patient_id=None,
        lesion_id=None,
        dup_group=None,
        age=age,
        sex=sex,
        site=site,
        source="a",
    )


def test_metadata_encoding() -> None:
    known, unknown, strange = encode_metadata(
        [lesion(70, "female", SITES[1]), lesion(None, None, None), lesion(50, "male", "elsewhere")]
    )
    assert METADATA_FEATURES == len(known) == 6 + len(SITES)
    assert known.dtype == np.float32
    assert known[:5].tolist() == [1, 0, 0, 1, 0]
    assert unknown[:5].tolist() == [0, 1, 0, 0, 1]
    assert strange[:5].tolist() == [0, 0, 1, 0, 0]
    assert np.flatnonzero(known[5:]).tolist() == [1]
    assert np.flatnonzero(unknown[5:]).tolist() == np.flatnonzero(strange[5:]).tolist() == [len(SITES)]
    assert encode_metadata([]).shape == (0, METADATA_FEATURES)
