"""The clinics of a study and a folder, and what is told of them."""

from pathlib import Path

import pytest

from melfed.common.errors import StudyError
from melfed.simulations.api.clinics import virtual_clinics
from tests.simulations.api.runs import STUDY

PHANTOM = STUDY.with_(data={"phantom": {"images": 40, "clinics": 2}})


def test_a_study_renders_its_own_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    virtual = virtual_clinics(PHANTOM.protocol, None, tmp_path)
    assert len(virtual.records) == 40
    assert "All images are synthetic" in capsys.readouterr().err
    assert virtual_clinics(PHANTOM.protocol, None, tmp_path, quiet=True).records == virtual.records
    assert capsys.readouterr().err == ""


def test_a_folder_too_few_or_too_many(phantom: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"needs images: add --data DIR \(in Python, data=DIR\)"):
        virtual_clinics(STUDY.protocol, None, tmp_path)
    with pytest.raises(StudyError, match="renders its own images"):
        virtual_clinics(PHANTOM.protocol, phantom, tmp_path)


def test_images_that_cannot_be_used_are_told(phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    folder = Path(shutil.copytree(phantom, tmp_path / "data"))
    next((folder / "images").iterdir()).write_bytes(b"none")
    virtual = virtual_clinics(STUDY.protocol, folder, tmp_path / "cache")
    assert len(virtual.left_out) == 1
    assert "1 images are left out, for example" in capsys.readouterr().err
