"""What a report says: the choice on the test part, which differences are none, and what the paper's figures are."""

from melfed.simulations.comparison.report.words import lead, points
from melfed.simulations.comparison.statistics.centres import Centre
from tests.simulations.comparison.made import (
    BACKBONES,
    cell,
    finding,
    result,
    results,
    scores,
    several_sources,
    without,
)


def said(found: object) -> dict[str, str]:
    return dict(points(found))


def test_the_choice_on_the_test_part_is_told_with_its_optimism() -> None:
    text = said(finding())["Chosen on the test part"]
    assert "all 3 configurations" in text
    assert f"{BACKBONES[2]}, pretrained false" in text
    assert "flattering, by about 0.0" in text


def test_which_differences_are_none_is_told() -> None:
    alike = said(finding(results(same=True)))["Which differences are none"]
    assert "AUROC: of 3 pairs, 0 differ and 3 are not told apart" in alike
    assert "mobilenet_v2, pretrained false; efficientnet_lite0" in alike
    apart = [result(cell(name), scores(k, part=k)) for k, name in enumerate(BACKBONES)]
    assert "no two configurations on the same test patients" in said(finding(apart))["Which differences are none"]


def test_the_papers_auroc_is_called_what_it_is() -> None:
    assert "The paper's “AUROC”" not in said(finding())
    text = said(finding(published="arXiv:2011.04475"))
    assert "balanced accuracy at 0.5" in text["The paper's “AUROC”"]
    assert "archive that supplies no negatives" in text["The paper's data"]


def test_synthetic_images_and_missing_ranks_are_told() -> None:
    text = said(finding(synthetic=True))
    assert "nothing about real patients" in text["Synthetic images"]
    assert "No critical-difference diagram: fewer than three seeds" in text["Tests"]
    assert "over 3 seeds" in said(finding(results(seeds=(0, 1, 2))))["Tests"]


def test_nothing_is_said_of_results_that_are_none() -> None:
    found = finding([without(cell("vgg16"))])
    assert "no cell has a result" in said(found)["Chosen on the test part"]
    assert lead(found).startswith("1 cell of 1 configuration; no test image")
    assert lead(finding()).startswith("3 cells of 3 configurations; 200 test images with")


def test_what_the_source_alone_gives_is_told() -> None:
    assert "Telling sources apart" not in said(finding())
    made = several_sources()
    text = said(finding(made))["Telling sources apart"]
    assert f"a pooled AUROC of {made[0].by_source.alone:.3f} on these test parts" in text
    assert "exactly 0.5 within sources" in text


def test_absent_centres_are_told() -> None:
    assert "Centres" not in said(finding())
    there = (Centre("north", ("N",), 3, 1, 2), Centre("south", (), 0, 0, 0), Centre("", ("X",), 5, 0, 5))
    text = said(finding(there=there, centres={"north": ("N",), "south": ("S",)}))["Centres"]
    assert text.startswith("1 of 2 centres are in the data; absent: south.")
    assert text.endswith("no such centre: X.")
