"""Symbolic links in a data folder: followed where asked for, refused where they lead too far, and never for ever."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from melfed.common.data.images.files import Files, table_stamp
from melfed.common.data.images.store import ImageStore
from melfed.common.data.records import read_table
from melfed.common.data.tables.rows import ReadOptions
from melfed.common.errors import DataError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a table, one image of its own, and a linked folder with another."""
    pictures(tmp_path / "archive" / "deep", "b")
    pictures(tmp_path / "data", "a")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "archive")
    (tmp_path / "data" / "table.csv").write_text("image,target\na.png,0\nlinked/deep/b.png,1\n")
    return tmp_path / "data"


def pictures(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        pixels = np.random.default_rng([seed, *name.encode()]).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")


def test_a_linked_folder_is_followed_when_asked_for(data: Path, tmp_path: Path) -> None:
    assert Files(data).images == ["a.png"]
    with pytest.raises(DataError, match=r"is a link out of the data folder; copy .* or follow links with --links own"):
        read_table(data)
    for links in ("own", "any"):
        options = ReadOptions(links=links)
        records = read_table(data, options=options).records
        assert [(record.image, record.target) for record in records] == [("a.png", 0), ("linked/deep/b.png", 1)]
        names = [record.image for record in records]
        store = ImageStore.build(tmp_path / links, data, names, 32, links=links)
        assert not store.left_out
        again = ImageStore.open(tmp_path / links, data, names, 32, links=links)
        assert again.digests == store.digests
    assert ImageStore.build(tmp_path / "no", data, names, 32).left_out[0].reason == "leads out of the data folder"


def test_a_changed_table_behind_a_link_changes_the_stamp(data: Path) -> None:
    table = data / "linked" / "more.csv"
    before = table_stamp(data, "own"), table_stamp(data)
    table.write_text("image,target\n")
    assert table_stamp(data, "own") != before[0]
    assert table_stamp(data) == before[1]


def test_circles_end_and_no_folder_is_entered_twice(data: Path) -> None:
    (data / "sub").mkdir()
    pictures(data / "sub", "c")
    (data / "sub" / "up").symlink_to(data / "sub")
    (data / "again").symlink_to(data / "sub")
    (data / "self").symlink_to(data / "self")
    (data / "linked" / "back").symlink_to(data / "sub")
    (data / "linked" / "deep" / "round").symlink_to(data / "linked")
    assert Files(data, links="own").images == ["a.png", "linked/deep/b.png", "sub/c.png"]


@pytest.mark.parametrize("links", ["own", "any"])
@pytest.mark.parametrize("target", ["/", "..", "."])
def test_a_link_to_what_holds_the_data_folder_is_refused(data: Path, links: str, target: str) -> None:
    (data / "up").symlink_to(target, target_is_directory=True)
    if target == ".":
        assert Files(data, links=links).images == ["a.png", "linked/deep/b.png"], "itself, entered already"
        return
    with pytest.raises(DataError, match="up: is a link to a folder that holds the data folder itself; remove it"):
        Files(data, links=links)


def test_another_file_system_is_refused_unless_asked_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "mounted"
    pictures(other, "far")
    monkeypatch.setattr("melfed.common.data.images.links.device_of", lambda path: int(str(path).startswith(str(other))))
    (data / "linked" / "deep" / "away").symlink_to(other)
    with pytest.raises(DataError, match="away: is a link to another file system; follow it with --links any"):
        Files(data, links="own")
    name = ["linked/deep/away/far.png"]
    assert name[0] in Files(data, links="any").images
    for links, usable in (("inside", 0), ("own", 0), ("any", 1)):
        store = ImageStore.build(tmp_path / f"cache-{links}", data, name, 32, links=links)
        assert len(store.left_out) == 1 - usable
    (data / "file.png").symlink_to(other / "far.png")
    (data / "linked" / "deep" / "away").unlink()
    with pytest.raises(DataError, match=r"'file\.png' is a link to another file system"):
        Files(data, links="own").find("file.png", data)
    assert Files(data, links="any").find("file.png", data) == "file.png"


def test_a_link_that_leads_nowhere_is_left_to_the_store_which_names_what_cannot_be_read(data: Path) -> None:
    (data / "gone.png").symlink_to(data / "nothing.png")
    (data / "linked" / "lost").symlink_to(data / "nowhere")
    assert Files(data, links="own").find("gone.png", data) == "gone.png"
