"""`comparison.html`: one page that loads nothing, in the style of a run's report."""

from pathlib import Path

from jinja2 import ChoiceLoader, PackageLoader

from melfed.common.files import write_text
from melfed.server.report import charts
from melfed.server.report.page import templates
from melfed.simulations.comparison.finding import Finding
from melfed.simulations.comparison.report import words
from melfed.simulations.comparison.report.figures import figures, page_figure
from melfed.simulations.comparison.report.tables import tables

NAME = "comparison.html"


def write_page(out: Path, found: Finding) -> Path:
    """Write the page of a comparison, and return its path. Raises StorageError."""
    path = out / NAME
    write_text(path, page(found))
    return path


def page(found: Finding) -> str:
    """Return the page of a comparison."""
    from importlib.metadata import version

    own, pieces = PackageLoader("melfed.simulations.comparison.report"), PackageLoader("melfed.server.report")
    environment = templates().overlay(loader=ChoiceLoader([own, pieces]))
    with charts.settings():
        drawn = [page_figure(each) for each in figures(found)]
    made = tables(found)
    template = environment.get_template("comparison.html")
    return template.render(
        found=found,
        main=made[0],
        tables=made[1:],
        figures=drawn,
        points=words.points(found),
        lead=words.lead(found),
        version=version("melfed"),
    )
