"""DDI: photographs with a disease."""

from tests.common.data.readers.reading import rows, told
from tests.common.lesions import write


def test_ddi(tmp_path):
    table = write(
        tmp_path / "ddi_metadata.csv",
        ",DDI_ID,DDI_file,skin_tone,malignant,disease",
        "0,1,000001.png,56,True,melanoma-in-situ",
        "1,2,000002.png,12,True,mycosis-fungoides",
        "2,3,000003.png,34,False,melanocytic-nevi",
    )
    assert told(rows(table), "target", "skin_type", "image_type") == [
        ("000001.png", 1, None, "clinical"), ("000002.png", 0, None, "clinical"), ("000003.png", 0, None, "clinical")
    ]  # fmt: skip
