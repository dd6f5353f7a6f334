"""Tables of a comparison: the paper's layout, what is missing by its name, and figures by hand."""

import numpy as np
import pytest
from scipy import stats

from melfed.simulations.comparison.report.tables import (
    best_of,
    centre_table,
    cost_table,
    metric_cell,
    pair_table,
    paper_table,
    result_table,
    source_table,
    tables,
)
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


def test_a_row_a_family_and_columns_by_transfer() -> None:
    made = [
        *(
            result(cell(name, pretrained=p), scores(k + 5 * p))
            for k, name in enumerate(BACKBONES[1:])
            for p in (False, True)
        ),
        result(cell("simple_cnn"), scores(9)),
        without(cell("vgg16", pretrained=True)),
    ]
    table = result_table(finding(made))
    assert table.columns == ("model.backbone", *(2 * ("AUROC", "AUPRC", "Balanced accuracy at 0.5")))
    assert table.spans == (("pretrained false", 3), ("pretrained true", 3))
    assert [row[0][0] for row in table.rows] == [*BACKBONES[1:], "simple_cnn", "vgg16"]
    by_name = {row[0][0]: [value for value, _ in row[1:]] for row in table.rows}
    assert by_name["simple_cnn"][3:] == 3 * ["–"]
    assert by_name["vgg16"] == [*(3 * ["–"]), *(3 * ["no weights"])]
    assert by_name["mobilenet_v2"][0] == f"{made[0].metrics.auroc.value:.3f}"
    assert "one seed" in table.caption


def test_several_seeds_are_a_mean_with_students_interval() -> None:
    made = results(seeds=(0, 1, 2))
    values = [each.metrics.auroc.value for each in made[:3]]
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3)
    assert metric_cell(made[:3], "auroc") == (f"{np.mean(values):.3f} ± {half:.3f}", "")
    assert metric_cell([*made[:2], without(cell("simple_cnn", seed=2))], "auroc")[1] == "2 of 3 runs"
    assert "over 3 seeds" in result_table(finding(made)).caption
    assert metric_cell([], "auroc") == ("–", "")


def test_the_papers_figures_stand_beside_both_quantities() -> None:
    table = paper_table(finding(published="arXiv:2011.04475"))
    assert table.spans == (("Without transfer learning", 5), ("With transfer learning", 5))
    rows = {row[0][0]: [value for value, _ in row[1:]] for row in table.rows}
    assert list(rows) == [
        "simple_cnn (simple CNN)",
        "mobilenet_v2 (MobileNet v2)",
        "efficientnet_lite0 (stands for EfficientNet-B2)",
    ]
    own = results()[1].metrics
    assert rows["mobilenet_v2 (MobileNet v2)"] == [
        f"{own.balanced_accuracy.value:.3f}",
        f"{own.auroc.value:.3f}",
        f"{own.auprc.value:.3f}",
        "0.889 ± 0.013",
        "0.769 ± 0.019",
        *(3 * ["–"]),
        "0.916 ± 0.007",
        "0.806 ± 0.015",
    ]
    assert "rounded predictions" in table.caption
    assert "another archive" in table.caption


def test_costs_are_means_over_runs() -> None:
    rows = cost_table(finding(results(seeds=(0, 1)))).rows
    assert [value for value, _ in rows[1]] == [
        "mobilenet_v2, pretrained false",
        "1.000",
        "1.000",
        "0.100",
        "20.0",
        "2",
        "12.5",
        "3.00",
        "–",
    ]


def test_pairs_with_the_best_stand_first() -> None:
    found = finding()
    assert dict(best_of(found))["model.backbone"] == BACKBONES[2]
    rows = pair_table(found).rows
    assert len(rows) == 6
    assert all(BACKBONES[2] in row[0][0] + row[1][0] for row in rows[:4])
    assert {row[-1][0] for row in rows} <= {"shown", "none shown"}
    assert best_of(finding([without(cell("vgg16"))])) is None


def test_a_row_a_configuration_within_sources() -> None:
    made = several_sources()
    table = source_table(finding(made))
    assert table.columns == ("Configuration", "AUROC, pooled", "Source alone", "AUROC within sources", "A", "B", "Z")
    for each, row in zip(made, table.rows, strict=True):
        split, pooled = each.by_source, each.metrics.auroc.value
        share = (split.alone - 0.5) / (pooled - 0.5)
        assert row[2] == (f"{split.alone:.3f}", f"{share:.0%}")
        assert row[3] == (f"{split.within.value:.3f}", f"{split.within.low:.3f}–{split.within.high:.3f}")
        assert row[4][0] == f"{split.sources[0].auroc.value:.3f}"
        assert row[6] == ("withheld", "melanomas: 1")
    assert "fewer than 10 patients" in table.caption


def test_within_sources_has_students_interval_over_seeds() -> None:
    made = several_sources(seeds=(0, 1))
    row = source_table(finding(made)).rows[0]
    values = [each.by_source.within.value for each in made[:2]]
    half = stats.t.ppf(0.975, 1) * np.std(values, ddof=1) / np.sqrt(2)
    assert row[3] == (f"{np.mean(values):.3f} ± {half:.3f}", "")
    nothing = without(cell("vgg16"))
    assert source_table(finding([*made, nothing])).rows[-1][2:] == (("–", ""), ("no weights", ""), *(3 * [("–", "")]))


def test_centres_are_there_or_absent() -> None:
    there = (Centre("north", ("N_1", "N_2"), 3, 1, 2), Centre("south", (), 0, 0, 0), Centre("", ("X",), 5, 0, 5))
    rows = [[text for text, _ in row] for row in centre_table(finding(there=there)).rows]
    assert rows == [
        ["north", "N_1, N_2", "3", "1", "2"],
        ["south", "absent", "–", "–", "–"],
        ["none of them", "X", "5", "0", "5"],
    ]


@pytest.mark.parametrize("published", [None, "arXiv:2011.04475"])
def test_all_tables_have_as_many_cells_as_columns(published: str | None) -> None:
    there = (Centre("north", ("A", "B"), 3, 1, 2),)
    made = tables(finding([*several_sources(), without(cell("vgg16"))], there=there, published=published))
    assert len(made) == (7 if published else 6)
    for table in made:
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert not table.spans or 1 + sum(number for _, number in table.spans) == len(table.columns)
    assert made[-1].rows[0][2][0] == "there are none <here>"
