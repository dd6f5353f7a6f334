"""Derm7pt: two pictures a case."""

from melfed.common.data.records import read_table
from tests.common.lesions import touch, write


def test_derm7pt_has_two_pictures_a_case_below_a_folder_of_images(tmp_path):
    write(
        tmp_path / "meta/meta.csv",
        "case_num,diagnosis,seven_point_score,location,sex,management,clinic,derm,case_id,notes",
        "1,melanoma (less than 0.76 mm),3,back,female,excision,NEL/Nel026.jpg,NEL/NEL027.jpg,,",
        "2,clark nevus,1,lower limbs,male,no further examination,NGL/Nel026.jpg,NGL/Ngl2.jpg,,",
    )
    touch(tmp_path, *(f"images/{name}.jpg" for name in ("NEL/Nel026", "NEL/NEL027", "NGL/Nel026", "NGL/Ngl2")))
    table = read_table(tmp_path)
    assert [(r.image, r.target, r.lesion_id, r.image_type, r.sex) for r in table.records] == [
        ("images/NEL/NEL027.jpg", 1, "1", "dermoscopic", "female"),
        ("images/NEL/Nel026.jpg", 1, "1", "clinical", "female"),
        ("images/NGL/Nel026.jpg", 0, "2", "clinical", "male"),
        ("images/NGL/Ngl2.jpg", 0, "2", "dermoscopic", "male"),
    ]
    assert table.notes == (
        "kinds of pictures are mixed (2 dermoscopic, 2 clinical); a network can tell them apart by that alone",
    )
