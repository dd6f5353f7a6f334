"""What both commands that score single pictures print: probabilities, what could not be used, what is unlike."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import typer

from melfed.common.errors import DataError
from melfed.common.terminal.console import NOTICE, errors

if TYPE_CHECKING:
    from melfed.common.export.predictions import Prediction


NOT_CALIBRATED: Final = "not calibrated: a probability orders images, and is no share of melanomas among patients"


def tell_predictions(found: "Sequence[Prediction]", as_json: bool, clinic: str | None = None) -> None:
    """Print a line an image: probability, tab, file; or JSON. Leaves with an exit code where an image has none.

    Args:
        found: of one model.
        as_json: print that.
        clinic: whose own model it is, of a run that has such.
    """
    from melfed.common.export.out_of_distribution import NO_STATISTICS, UNLIKE

    errors.print(NOTICE, style="yellow")
    if as_json:
        rows = [{**vars(prediction), "image": str(prediction.image)} for prediction in found]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    for prediction in found:
        if prediction.probability is None:
            errors.print(f"error: {prediction.image}: {prediction.problem}", style="red", markup=False)
        elif not as_json:
            sys.stdout.write(f"{prediction.probability:.4f}\t{prediction.image}\n")
        if prediction.unlike is not None and prediction.unlike > 1:
            told = f"warning: {prediction.image}: {UNLIKE} (score {prediction.unlike:.2f}; from 1 on)"
            errors.print(f"{told}: its probability means nothing", style="yellow", markup=False, soft_wrap=True)
    scored = [prediction for prediction in found if prediction.probability is not None]
    if scored and not any(prediction.calibrated for prediction in scored):
        why = f"; no calibration map is made of clinic {clinic}'s own model" if clinic else ""
        errors.print(f"note: {NOT_CALIBRATED}{why}", style="yellow", soft_wrap=True)
    if scored and all(prediction.unlike is None for prediction in scored):
        errors.print(f"note: {NO_STATISTICS}", style="yellow", soft_wrap=True)
    if len(scored) < len(found):
        raise typer.Exit(DataError.exit_code)
