"""What a data folder says of its pictures' origin."""

from pathlib import Path

from melfed.common.data.origin import SYNTHETIC_NOTICE, is_synthetic
from melfed.simulations.phantom.dataset import PhantomSpec, write_phantom


def test_a_folder_of_rendered_lesions_says_so(tmp_path: Path) -> None:
    folder = write_phantom(tmp_path / "data", PhantomSpec(clinics=1, images=12, size=32))
    assert is_synthetic(folder)
    (folder / SYNTHETIC_NOTICE).unlink()
    assert not is_synthetic(folder)


def test_rows_of_the_table_have_no_part_in_it(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("image,diagnosis,source\nsynthetic.jpg,mel,synthetic\n", encoding="utf-8")
    assert not is_synthetic(tmp_path)
