"""Fitzpatrick17k: photographs with a condition and a skin type."""

from tests.common.data.readers.reading import rows, told
from tests.common.lesions import write


def test_fitzpatrick17k(tmp_path):
    table = write(
        tmp_path / "fitzpatrick17k.csv",
        "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,nine_partition_label,three_partition_label,qc,url,url_alphanum",
        "5e82,3,3,superficial spreading melanoma ssm,malignant melanoma,malignant,,u,u",
        "fa29,-1,1,dermatofibroma,benign dermal,benign,,u,u",
    )
    assert told(rows(table), "target", "skin_type") == [("5e82", 1, 3), ("fa29", 0, None)]
