#!/usr/bin/env bash
# typer 0.20.1 with click 8.5.1, as flwr 1.41.0 lets pip choose them (typer below 0.21, click below 9): `--help` no longer says
# what an argument is. Its name, type and "[required]" are there, the words of typer.Argument(help=...) are not; options keep
# theirs, nothing warns, and the command works. With click 8.4.2 the words are there. melfed asks for click below 8.5.
#
# Installs pinned packages into a temporary folder; needs Python 3.11 or newer and PyPI. Leaves with 1 when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
cat >"$folder/finding.py" <<'PYTHON'
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="Words about the argument.")],
    rounds: Annotated[int, typer.Option(help="Words about the option.")] = 3,
) -> None:
    pass


app()
PYTHON
said() {
    "$folder/env/bin/pip" install --quiet typer==0.20.1 "click==$1"
    "$folder/env/bin/python" "$folder/finding.py" --help >"$folder/help"
    local argument=no option=no
    grep -q "Words about the argument" "$folder/help" && argument=yes
    grep -q "Words about the option" "$folder/help" && option=yes
    echo "click $1: help of the argument: $argument, of the option: $option"
    [ "$argument $option" = "$2" ]
}
said 8.4.2 "yes yes" && said 8.5.1 "no yes" && echo "as found" || { echo CHANGED; exit 1; }
