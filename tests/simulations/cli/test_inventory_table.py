"""An inventory as tables: totals, sources, contents, and what is wrong with examples."""

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from melfed.common.data.inventory import Inventory, inspect
from melfed.simulations.cli.inventory_table import SHOWN, inventory_tables

TABLE = """image,target,diagnosis,patient_id,age,sex,site,source
a.png,1,mel,p1,34,female,back,north
b.png,0,nv,p2,49,male,moon,south
c.png,1,mel,p3,,male,back,south
"""


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    root = tmp_path_factory.mktemp("data") / "clinic [red]"
    root.mkdir()
    gone = "".join(f"gone{number:02}.png,0,nv,,,,,north\n" for number in range(SHOWN + 2))
    (root / "metadata.csv").write_text(TABLE + gone, encoding="utf-8")
    rng = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(root / f"{name}.png")
    (root / "c.png").write_bytes((root / "b.png").read_bytes())
    return inspect(root)


def printed(inventory: Inventory) -> str:
    console = Console(width=200, markup=False)
    with console.capture() as captured:
        for table in inventory_tables(inventory):
            console.print(table)
    return captured.get()


def line(text: str, start: str) -> str:
    cells = (line.replace("│", " ").replace("┃", " ").strip() for line in text.splitlines())
    return " ".join(next(cell for cell in cells if cell.startswith(start)).split())


def test_totals_sources_and_contents(inventory: Inventory) -> None:
    text = printed(inventory)
    assert "clinic [red]: melfed" in text
    assert line(text, "images") == "images 3"
    assert line(text, "melanomas") == "melanomas 2"
    assert line(text, "lesions") == "lesions none known"
    assert line(text, "age") == "age 42 (34–49), known for 2"
    assert line(text, "south") == "south 2 1 2 0 2"
    assert line(text, "diagnoses") == "diagnoses mel 2, nv 1"
    assert line(text, "missing").startswith("missing ")


def test_what_is_wrong_is_counted_with_examples(inventory: Inventory) -> None:
    text = printed(inventory)
    assert line(text, "rows without image") == f"rows without image {SHOWN + 2} gone00.png"
    assert "gone09.png" in text
    assert "gone10.png" not in text
    assert line(text, "identical files") == "identical files 1 b.png = c.png, of 2 patients!, with different targets!"


def test_where_nothing_is_wrong_nothing_is_listed(inventory: Inventory) -> None:
    whole = inventory.model_copy(
        update={name: [] for name in ("rows_without_image", "identical_files", "near_duplicates")}
    )
    assert "to look at" not in printed(whole)
