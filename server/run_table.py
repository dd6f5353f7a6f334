"""The table of a finished run, for the terminal."""

from typing import TYPE_CHECKING

from server.terminal import INTERVAL_WIDTH, metrics_cells

if TYPE_CHECKING:
    from rich.table import Table

    from server.summary import RunSummary


def undefined(summary: "RunSummary") -> list[str]:
    """Return a line for each reason why metrics in the table are undefined, with the clinics that it is true of."""
    from server.report_words import hint, noised_unit

    tests = {clinic.name: clinic.test for clinic in summary.clinics} | {"all pooled": summary.test}
    whose: dict[str, list[str]] = {}
    for name, test in tests.items():
        if test.auroc.value is None:
            whose.setdefault(hint(test, "test", noised_unit(summary)) or "of too little data", []).append(name)
    return [
        f"test{'' if len(names) == len(tests) else ' of ' + ', '.join(names)}: undefined, because {reason}"
        for reason, names in whose.items()
    ]


def summary_table(summary: "RunSummary") -> "Table":
    """Return one row a clinic, and one for all pooled."""
    from rich.table import Table

    from server.report_words import plural

    synthetic = ", synthetic images" if summary.data.synthetic else ""
    table = Table(title=f"{summary.study.name} ({summary.mode}{synthetic}): test, value (95 % interval)")
    table.add_column("clinic", overflow="fold")
    for column in (plural(summary.data.groups_by), "images", "melanomas"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("AUROC", "AUPRC"):
        table.add_column(column, justify="right", min_width=INTERVAL_WIDTH)
    for clinic in summary.clinics:
        counts = (str(n) for n in (clinic.patients, clinic.images, clinic.melanomas))
        table.add_row(clinic.name, *counts, *metrics_cells(clinic.test))
    table.add_section()
    totals = (summary.data.groups, summary.data.images, summary.data.melanomas)
    table.add_row("all, pooled", *(str(n) for n in totals), *metrics_cells(summary.test), style="bold")
    return table
