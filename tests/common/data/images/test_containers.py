from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from melfed.common.data.images.containers import file_of, members, split_member
from melfed.common.data.images.decoder import ImageProblem, decode, read_file
from melfed.common.data.images.store import ImageStore
from melfed.common.errors import DataError
from tests.common.data.made_pictures import SIDE, file_bytes, patches, wrong_by

PICTURE = file_bytes(Image.fromarray(patches()), "JPEG", quality=98, subsampling=0)


@pytest.fixture
def container(tmp_path: Path) -> Path:
    path = tmp_path / "train-image.hdf5"
    with h5py.File(path, "w") as file:
        file["ISIC_1"] = np.void(PICTURE)  # as ISIC 2024 has them
        file["ISIC_2"] = np.frombuffer(PICTURE, np.uint8)
        file["group/ISIC_3"] = patches()
        file["ISIC_4"] = np.bytes_(PICTURE)
    return path


def test_all_ways_to_store_a_picture(container: Path) -> None:
    names = members(container)
    assert sorted(names) == ["ISIC_1", "ISIC_2", "ISIC_4", "group/ISIC_3"]
    assert all(wrong_by(decode(container / name, SIDE)) <= 3 for name in names)


def test_a_container_changed_in_place_is_read_anew(container: Path) -> None:
    read_file(container / "ISIC_1")
    container.unlink()
    with h5py.File(container, "w") as file:
        file["ISIC_1"] = np.void(PICTURE[:-1] + b"!")
    assert read_file(container / "ISIC_1").endswith(b"!")


def test_file_that_holds_an_image(container: Path) -> None:
    assert file_of(container / "group" / "ISIC_3") == container
    assert file_of(container.parent / "plain.jpg") == container.parent / "plain.jpg"
    folder = container.parent / "folder.h5"
    folder.mkdir()
    assert split_member(str(folder / "a.jpg")) == (str(folder / "a.jpg"), None)


def test_store_of_images_in_a_container(container: Path, tmp_path: Path) -> None:
    images = [f"{container.name}/{name}" for name in ("ISIC_1", "group/ISIC_3", "ISIC_9")]
    store = ImageStore.build(tmp_path / "cache", container.parent, images, SIDE)
    assert [item.image for item in store.left_out] == ["train-image.hdf5/ISIC_9"]
    assert "no such image" in store.left_out[0].reason
    assert all(wrong_by(pixels) <= 3 for pixels in store.batch(images[:2]))
    again = ImageStore.open(tmp_path / "cache", container.parent, images[:2], SIDE)
    assert np.array_equal(again.batch(images[:2]), store.batch(images[:2]))


def reason(path: Path) -> str:
    with pytest.raises(ImageProblem) as caught:
        read_file(path)
    return caught.value.reason


def test_links_out_of_the_container_are_neither_listed_nor_read(container: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with h5py.File(outside / "other.h5", "w") as file:
        file["secret"] = np.void(PICTURE)
        file["group/secret"] = np.void(PICTURE)
    (outside / "raw").write_bytes(PICTURE)
    with h5py.File(container, "a") as file:
        file["link"] = h5py.ExternalLink(str(outside / "other.h5"), "secret")
        file["folder"] = h5py.ExternalLink(str(outside / "other.h5"), "group")
        file["soft"] = h5py.SoftLink("/ISIC_1")
        file.create_dataset("raw", (len(PICTURE),), np.uint8, external=[(str(outside / "raw"), 0, len(PICTURE))])
        layout = h5py.VirtualLayout((len(PICTURE),), np.uint8)
        layout[:] = h5py.VirtualSource(str(outside / "other.h5"), "secret", (len(PICTURE),), np.uint8)
        file.create_virtual_dataset("virtual", layout)
    assert not {"link", "folder", "soft", "folder/secret"} & set(members(container))
    for name in ("link", "folder/secret", "soft", "none", "group"):
        assert "no such image" in reason(container / name)
    for name in ("raw", "virtual"):
        assert "refers to other files" in reason(container / name)


def test_what_is_no_picture(container: Path) -> None:
    with h5py.File(container, "a") as file:
        file["numbers"] = np.zeros((4, 4))
        file["stack"] = np.zeros((4, 4, 4, 3), np.uint8)
        file["word"] = np.void(b"no picture")
    assert "nor 8-bit pixels" in reason(container / "numbers")
    assert "shape" in reason(container / "stack")
    with pytest.raises(ImageProblem, match="no readable image"):
        decode(container / "word", 32)


def test_limit_of_size_holds_before_anything_is_unpacked(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(container, "a") as file:
        file.create_dataset("bomb", (20_000_000,), np.uint8, compression="gzip", chunks=True, fillvalue=0)
    monkeypatch.setattr("melfed.common.data.images.decoder.MAX_FILE_BYTES", 10_000_000)
    assert "make it smaller" in reason(container / "bomb")


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_damaged_container(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.h5: cannot be read as HDF5; copy it anew"):
        members(path)
    assert "copy that anew" in reason(path / "ISIC_1")
