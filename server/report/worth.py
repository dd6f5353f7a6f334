"""The figure of what each clinic added to a head, as a file of its own."""

from io import StringIO

from melfed.common.moments.worth import Worth


def worth_svg(found: Worth) -> str:
    """Return an SVG file: for each clinic what it adds to all others, and Shapley's value, with their intervals."""
    from matplotlib.figure import Figure

    names = list(found.alone)
    figure = Figure(figsize=(7, 1.2 + 0.5 * len(names)), layout="constrained")
    axes = figure.subplots()
    for offset, (label, values) in zip(
        (-0.12, 0.12), (("adds to all others", found.alone), ("Shapley's value", found.shapley)), strict=True
    ):
        points = [values[name] for name in names]
        around = [[p.value - p.low for p in points], [p.high - p.value for p in points]]
        places = [place + offset for place in range(len(names))]
        axes.errorbar([p.value for p in points], places, xerr=around, fmt="o", capsize=3, label=label)
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.invert_yaxis()
    judged = "binormal AUROC" if found.judge == "auroc" else "squared error"
    axes.set_xlabel(f"change of the {judged} by all moments (95 %)")
    axes.legend(loc="best", frameon=False)
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
