"""The table of a finished run, for the terminal."""

from typing import TYPE_CHECKING

from melfed.server.cli.options import INTERVAL_WIDTH, metrics_cells

if TYPE_CHECKING:
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
    """Return what to know about the table: why metrics are undefined, how private numbers came about, and warnings."""
    from melfed.server.report.count_words import told

    return [*undefined(summary), *filter(None, [told(summary)]), *(f"warning: {line}" for line in summary.warnings)]


def summary_table(summary: "RunSummary") -> "Table":
    """Return one row a clinic, and one for all pooled."""
    from rich.table import Table

    from melfed.server.report.count_words import told_headings, told_unit
    from melfed.server.report.words import plural

    unit = told_unit(summary)
    names = [plural(summary.data.groups_by), "images", "melanomas"]
    if unit is not None:
        names = [heading.lower() for heading in told_headings(summary, unit)]
    synthetic = ", synthetic images" if summary.data.synthetic else ""
    table = Table(title=f"{summary.study.name} ({summary.mode}{synthetic}): test, value (95 % interval)")
    table.add_column("clinic", overflow="fold")
    for column in names:
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("AUROC", "AUPRC"):
        table.add_column(column, justify="right", min_width=INTERVAL_WIDTH)
    for clinic in summary.clinics:
        table.add_row(clinic.name, *_cells(clinic), *metrics_cells(clinic.test))
    table.add_section()
    table.add_row("all, pooled", *_sums(summary), *metrics_cells(summary.test), style="bold")
    return table


def _cells(clinic: "ClinicSummary") -> list[str]:
    return [str(number) for number in (clinic.patients, clinic.images, clinic.melanomas) if number is not None]


def _sums(summary: "RunSummary") -> list[str]:
    """Return the sums of the column above."""
    return [str(sum(map(int, column))) for column in zip(*map(_cells, summary.clinics), strict=True)]
