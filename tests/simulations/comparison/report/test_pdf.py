"""comparison.pdf: pages with the tables, the figures and what may be said."""

import re
import zlib
from pathlib import Path

from melfed.simulations.comparison.report.pdf import _table_pages, write_pdf
from melfed.simulations.comparison.report.tables import Table, tables
from tests.simulations.comparison.made import cell, finding, results, without


def pages(path: Path) -> int:
    return len(re.findall(rb"/Type /Page\b", path.read_bytes()))


def test_a_page_a_table_and_figure_and_of_words(tmp_path: Path) -> None:
    found = finding([*results(), without(cell("vgg16", pretrained=True))])
    path = write_pdf(tmp_path, found)
    content = path.read_bytes()
    assert content.startswith(b"%PDF-")
    assert pages(path) == len(tables(found)) + 2 + 1
    streams = re.findall(rb"stream\r?\n(.*?)endstream", content, re.S)
    pages_of = [zlib.decompress(each) for each in streams if each[:1] == b"x"]
    assert any(re.search(rb" T[jJ]\b", each) for each in pages_of), "text, not pictures of it"


def test_long_tables_go_on_to_the_next_page() -> None:
    row = (("vgg16", ""), ("0.9", "0.8–1.0"))
    made = Table("A table.", ("family", "AUROC"), (61 * (row,)))
    drawn = list(_table_pages(made, "", "", finding()))
    assert len(drawn) == 3
    texts = [[text.get_text() for text in page.texts] for page in drawn]
    assert [each.count("0.9 (0.8–1.0)") for each in texts] == [24, 24, 13]
    assert all("AUROC" in each for each in texts)
