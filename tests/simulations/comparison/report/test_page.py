"""comparison.html: one file that loads nothing, escapes what others wrote, and is the same each time."""

import re
from pathlib import Path

from melfed.simulations.comparison.report.page import page, write_page
from tests.simulations.comparison.made import cell, finding, results, without


def test_the_page_loads_nothing_and_holds_all_tables(tmp_path: Path) -> None:
    found = finding([*results(), without(cell("vgg16", pretrained=True))], published="arXiv:2011.04475")
    text = write_page(tmp_path, found).read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"<(script|link|img|iframe)|src=|href=\"http", text)
    assert text.count("<table") == 5
    assert text.count("<svg") == 2
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    for words in ("no weights", "0.889 ± 0.013", "stands for EfficientNet-B2", "Chosen on the test part", "Holm"):
        assert words in text
    assert "there are none &lt;here&gt;" in text
    assert "<here>" not in text


def test_the_same_finding_gives_the_same_page() -> None:
    found = finding()
    assert page(found) == page(found)


def test_synthetic_images_are_announced() -> None:
    assert "(synthetic images)</title>" in page(finding(synthetic=True))
    assert "synthetic" not in page(finding())
