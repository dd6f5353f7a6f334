"""The table of a finished run, for the terminal."""

from typing import TYPE_CHECKING

from melfed.server.cli.options import INTERVAL_WIDTH, metrics_cells

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table

    from melfed.server.runs.summary import ClinicSummary, RunSummary


def undefined(summary: "RunSummary") -> list[str]:
    """Return a line for each reason why metrics in the table are undefined, with the clinics that it is true of."""
    from melfed.server.report.words import hint, noised_unit

    tests = {clinic.name: clinic.test for clinic in summary.clinics} | {"all pooled": summary.test}
    whose: dict[str, list[str]] = {}
    for name, test in tests.items():
        if test.auroc.value is None:
            whose.setdefault(hint(test, "test", noised_unit(summary)) or "of too little data", []).append(name)
    return [
        f"test{'' if len(names) == len(tests) else ' of ' + ', '.join(names)}: undefined, because {reason}"
        for reason, names in whose.items()
    ]


def notes(summary: "RunSummary") -> list[str]:
    """Return what to know beside the table, a line each.

    Why metrics are undefined, how private numbers came about, subgroups, what the federation brought, and warnings.
    """
    from melfed.server.report import brought, subgroups
    from melfed.server.report.count_words import told

    found = [*undefined(summary), *filter(None, [told(summary)]), *subgroups.lines(summary), *brought.lines(summary)]
    return [*found, *(f"warning: {line}" for line in summary.warnings)]


def summary_table(summary: "RunSummary") -> "Table":
    """Return one row a clinic, and one for all pooled."""
    from rich.table import Table

    from melfed.server.report.count_words import headings, is_about, marked, scope, told_unit
    from melfed.server.report.words import plural

    unit = told_unit(summary)
    names = [plural(summary.data.groups_by), "images", "melanomas"]
    if unit is not None:
        names = [heading.lower() for heading in headings(unit)]
    whose = f" of {', '.join(summary.data.synthetic_clinics)}" if summary.data.synthetic_clinics else ""
    synthetic = f", synthetic images{whose}" if summary.data.synthetic else ""
    caption = f"Counts: {scope(summary)}. AUROC, AUPRC: test part, with 95 % intervals."
    table = Table(title=f"{summary.study.name} ({summary.mode}{synthetic})", caption=caption)
    table.add_column("clinic", overflow="fold")
    for column in names:
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("AUROC", "AUPRC"):
        table.add_column(column, justify="right", min_width=INTERVAL_WIDTH)

    def cells(numbers: "Iterable[int]", clinics: "Sequence[ClinicSummary]") -> list[str]:
        return [marked(number, about=is_about(clinics)) for number in numbers]

    for clinic in summary.clinics:
        table.add_row(clinic.name, *cells(_numbers(clinic), [clinic]), *metrics_cells(clinic.test))
    table.add_section()
    sums = map(sum, zip(*map(_numbers, summary.clinics), strict=True))
    table.add_row("all, pooled", *cells(sums, summary.clinics), *metrics_cells(summary.test), style="bold")
    return table


def _numbers(clinic: "ClinicSummary") -> list[int]:
    return [number for number in (clinic.patients, clinic.images, clinic.melanomas) if number is not None]
