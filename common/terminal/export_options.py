"""What both commands that export a model take and tell."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from melfed.common.terminal.console import errors, output

if TYPE_CHECKING:
    from melfed.common.export.facts import ModelFacts

FormatOption = Annotated[str, typer.Option("--format", help="onnx, torch-export or safetensors.")]
OutOption = Annotated[Path, typer.Option(help="The file; it must not exist.", show_default=False)]
Int8Option = Annotated[
    Path | None,
    typer.Option(
        metavar="IMAGES",
        help="Compute in 8 bits, with ranges from this folder of public images; --format onnx alone.",
        show_default=False,
    ),
]


def tell_exported(facts: "ModelFacts", kind: str, out: Path, int8: Path | None) -> None:
    """Print what was written, and that its probability is not calibrated where it is not."""
    output.print(f"{out}: {facts.name}, {facts.backbone}, {kind}{', 8 bits' if int8 else ''}", soft_wrap=True)
    if facts.calibration is None:
        errors.print("note: the probability is not calibrated: it is the sigmoid of the logit", style="yellow")
