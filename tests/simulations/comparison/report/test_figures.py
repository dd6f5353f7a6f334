"""Figures of a comparison: every configuration is in them, at its place."""

from dataclasses import replace
from itertools import pairwise

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from melfed.server.report import charts
from melfed.simulations.comparison.report.figures import PLAIN, figures, page_figure
from tests.simulations.comparison.made import BACKBONES, cell, finding, result, results, scores, without


def test_size_latency_and_ranks() -> None:
    drawn = figures(finding(results(seeds=(0, 1, 2))))
    assert [each.name for each in drawn] == ["parameters", "latency", "ranks"]
    assert [each.name for each in figures(finding())] == ["parameters", "latency"]
    assert figures(finding([without(cell("vgg16"))])) == []


def test_a_point_lies_at_its_cost_and_auroc() -> None:
    made = results()
    axes = Figure().subplots()
    figures(finding(made))[0].draw(axes, PLAIN)
    points = {(round(line.get_xdata()[0], 9), line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"}
    assert points == {(each.costs.parameters / 1e6, each.metrics.auroc.value) for each in made}
    assert axes.get_xscale() == "log"
    assert {text.get_text() for text in axes.texts} == set(BACKBONES)


def test_numbers_of_the_axis_do_not_run_into_each_other() -> None:
    made = [result(cell(name), scores(k)) for k, name in enumerate(BACKBONES)]
    costs = [replace(each.costs, parameters=9_395 * 10 ** (2 * k)) for k, each in enumerate(made)]
    wide = [replace(each, costs=cost) for each, cost in zip(made, costs, strict=True)]
    figure = Figure(figsize=(5, 4))
    axes = figure.subplots()
    figures(finding(wide))[0].draw(axes, PLAIN)
    figure.draw_without_rendering()
    low, high = axes.get_xlim()
    shown = [label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
    boxes = [label.get_window_extent() for label in shown]
    assert len(boxes) >= 4
    assert not any(one.overlaps(other) for one, other in pairwise(boxes))


def test_names_of_near_points_stand_apart() -> None:
    made = [result(cell(name), scores(0)) for name in BACKBONES]  # all at one AUROC
    costs = [replace(each.costs, parameters=5_000_000 + 10_000 * k) for k, each in enumerate(made)]
    near = [replace(each, costs=cost) for each, cost in zip(made, costs, strict=True)]
    figure = Figure(figsize=(5, 4))
    axes = figure.subplots()
    figures(finding(near))[0].draw(axes, PLAIN)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the line to the point
    assert len(boxes) == len(BACKBONES) > 2
    assert not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[:k])


def test_configurations_that_differ_in_more_than_the_family_have_a_legend() -> None:
    made = [result(cell(BACKBONES[k], pretrained=p), scores(k + 3 * p)) for k in (1, 2) for p in (False, True)]
    assert [words for _, words in figures(finding(made))[0].keys] == ["pretrained false", "pretrained true"]


def test_a_critical_difference_diagram_has_each_name_with_its_rank() -> None:
    axes = Figure().subplots()
    figures(finding(results(seeds=(0, 1, 2))))[-1].draw(axes, PLAIN)
    words = {text.get_text() for text in axes.texts}
    assert f"{BACKBONES[2]}, pretrained false (1.00)" in words
    assert any(word.startswith("critical difference 1.9") for word in words)


@pytest.mark.parametrize("number", [0, 2])
def test_on_the_page_a_figure_has_no_colour_of_its_own(number: int) -> None:
    with charts.settings():
        shown = page_figure(figures(finding(results(seeds=(0, 1, 2))))[number])
    assert "var(--auroc)" in shown.image
    assert "#0000" not in shown.image
    assert BACKBONES[0] in shown.image
