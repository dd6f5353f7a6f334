"""A small clinic's own folder."""

from pathlib import Path

import pytest
from PIL import Image

from tests.client.data.own import table


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The data folder of a small clinic with two sources: 24 images, half of them positive, and a broken one."""
    folder = tmp_path / "own"
    folder.mkdir()
    rows = []
    for number in range(24):
        Image.new("RGB", (40, 40), (number * 10, 80, 90)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{number % 2},p{number},{'new' if number < 16 else 'old'}")
    (folder / "secret-name.png").write_bytes(b"no image")
    (folder / "table.csv").write_text(table(*rows, "secret-name.png,1,p99,new"))
    return folder
