"""Options and arguments that several of the researcher's commands have."""

from pathlib import Path
from typing import Annotated

import typer

Study = Annotated[Path, typer.Argument(help="Study protocol, a YAML file.", show_default=False)]
Data = Annotated[
    Path | None, typer.Option(help="Folder of labelled images; not for a study with data.phantom.", show_default=False)
]
Override = Annotated[list[str], typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a key of the study.")]
Seed = Annotated[int | None, typer.Option(help="Replaces the study's seed.", show_default=False)]
WeightsDir = Annotated[
    Path | None, typer.Option(envvar="MELFED_WEIGHTS", help="Folder of pretrained weights.", show_default=False)
]
Cache = Annotated[Path | None, typer.Option(help="Where decoded images are kept.", show_default=False)]
Diagnoses = Annotated[
    list[str],
    typer.Option("--diagnosis", metavar="WORD=CODE", help="What a word in the tables means; see docs/vocabulary.md."),
]
SharedIds = Annotated[
    bool, typer.Option("--shared-ids", help="Equal ids of patients in several sources are one person's.")
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER=CODE,...", help="What the images of folders show where no table says it.", show_default=False
    ),
]
Links = Annotated[
    str,
    typer.Option(
        metavar="inside|own|any",
        help="Symbolic links of the folder that are followed: own: within its file system; any: out of it too.",
    ),
]
