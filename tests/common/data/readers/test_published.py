"""Published tables, one and several in a folder, against what was published of them, and folders that once failed."""

import pytest

from melfed.common.data.records import group_ids, read_table
from melfed.common.errors import DataError
from tests.common.lesions import one_line, read_rows


def test_all_published_tables_together_are_refused(shared):
    with pytest.raises(
        DataError, match=r"tables of 4 layouts in one folder .*HAM10000_metadata.csv is HAM10000"
    ) as error:
        read_rows(sorted((shared / "data/tables").glob("*.csv")))
    assert "keep one of them" in one_line(error)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("folder", "records", "melanomas", "groups"),
    [
        ("fault-age-1960", 6, 2, 6),
        ("fault-dcm-heic-are-there", 6, 0, 3),
        ("fault-indeterminate-is-negative", 4, 2, 4),
        ("fault-isic-archive-2026-sites", 20, 5, 10),
        ("fault-malignant-melanoma-is-negative", 12, 7, 12),
        ("fault-patient-1-and-1.0", 60, 14, 30),
        ("fault-patient-minus-1", 24, 6, 24),
        ("fault-patient-numbers-of-two-clinics", 100, 24, 70),
        ("gap-bcn20000", 12, 3, 6),
        ("gap-column-PatientID", 24, 6, 8),
        ("gap-isic-2016", 8, 2, 8),
        ("gap-isic-2024-slice-3d", 16, 2, 6),
        ("gap-milk10k", 16, 4, 8),
        ("gap-pad-ufes-20", 12, 2, 4),
        ("gap-site-words", 12, 6, 12),
        ("ok-archive-2023", 30, 12, 10),
    ],
)
def test_inputs_that_once_failed(shared, folder, records, melanomas, groups, strict):
    found = read_table(shared / "data/found" / folder / "data", strict=strict).records
    assert (len(found), sum(r.target for r in found), len(set(group_ids(found)))) == (records, melanomas, groups)
    assert all(r.age is None or r.age <= 120 for r in found)
    if "site" in folder:
        assert all(r.site is not None for r in found)


@pytest.mark.parametrize(
    ("tables", "records", "melanomas", "groups"),
    [
        (["slice-3d/test-metadata.csv"], 5, 0, 5),
        (["milk10k/MILK10k_Training_GroundTruth.csv", "milk10k/MILK10k_Training_Metadata.csv"], 598, 60, 299),
        (
            ["isic2019-test/ISIC_2019_Test_GroundTruth.csv", "isic2019-test/ISIC_2019_Test_Metadata.csv"],
            8238,
            1327,
            8238,
        ),
        (["isic2018-train/ISIC2018_Task3_Training_GroundTruth.csv"], 10015, 1113, 10015),
        (["isic2016/ISBI2016_ISIC_Part3_Training_GroundTruth.csv"], 900, 173, 900),
        (["fitzpatrick17k/fitzpatrick17k.csv"], 300, 10, 300),
        (["pad-ufes-20/metadata.csv"], 2298, 52, 1373),
    ],
)
def test_published_tables_of_repositories(shared, tables, records, melanomas, groups):
    found = read_rows([shared / "data/found/tables" / table for table in tables])[1]
    assert (len(found), sum(r.target for r in found), len(set(group_ids(found)))) == (records, melanomas, groups)
