"""BCN20000: dermoscopic images with lesions."""

from tests.common.data.readers.reading import rows, told
from tests.common.lesions import write


def test_bcn20000(tmp_path):
    table = write(
        tmp_path / "bcn.csv",
        "bcn_filename,age_approx,anatom_site_general,diagnosis,lesion_id,capture_date,sex,split",
        "BCN_0000000001.jpg,55.0,anterior torso,MEL,BCN_0003884,2012-05-16,male,train",
        "BCN_0000000002.jpg,,,SCC,BCN_0003885,2012-05-16,,train",
    )
    assert told(rows(table), "target", "diagnosis", "lesion_id", "age", "site") == [
        ("BCN_0000000001.jpg", 1, "mel", "bcn_0003884", 55, "anterior torso"),
        ("BCN_0000000002.jpg", 0, "scc", "bcn_0003885", None, None),
    ]
