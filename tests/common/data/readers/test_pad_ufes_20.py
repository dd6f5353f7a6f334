"""PAD-UFES-20: lesions are numbered by patient."""

from melfed.common.data.records import group_ids
from tests.common.data.readers.reading import rows, told
from tests.common.lesions import write

PAD = "patient_id,lesion_id,age,gender,fitspatrick,region,diagnostic,img_id,biopsed"


def test_pad_ufes_20_numbers_lesions_by_patient(tmp_path):
    table = write(
        tmp_path / "metadata.csv",
        PAD,
        "PAT_1,9,60,FEMALE,2.0,FACE,MEL,a.png,True",
        "PAT_1,9,60,FEMALE,2.0,FACE,MEL,b.png,True",
        "PAT_2,9,70,,,FOREARM,NEV,c.png,False",
        "PAT_2,8,70,,,FOREARM,ACK,d.png,False",
        "PAT_3,7,70,,,FOREARM,SEK,e.png,False",
    )
    records = rows(table)
    assert told(records, "target", "diagnosis", "patient_id", "lesion_id", "skin_type", "image_type") == [
        ("a.png", 1, "mel", "pat_1", "pat_1:9", 2, "clinical"),
        ("b.png", 1, "mel", "pat_1", "pat_1:9", 2, "clinical"),
        ("c.png", 0, "nv", "pat_2", "pat_2:9", None, "clinical"),
        ("d.png", 0, "ak", "pat_2", "pat_2:8", None, "clinical"),
        ("e.png", 0, "bkl", "pat_3", "pat_3:7", None, "clinical"),
    ]
    assert len(set(group_ids(list(records.values())))) == 3
