"""The virtual clinics of a study and a data folder, and what is told while they are made."""

from pathlib import Path

from melfed.common.data.images.duplicates import count_duplicates
from melfed.common.data.images.store import default_cache
from melfed.common.data.tables.rows import ReadOptions
from melfed.common.errors import StudyError
from melfed.common.study.protocol import StudyProtocol
from melfed.common.terminal.console import errors
from melfed.server.cli.options import Bar
from melfed.simulations.partition.virtual_clinics import VirtualClinics, divide, phantom_folder


def virtual_clinics(
    study: StudyProtocol,
    data: Path | None,
    cache: Path | None = None,
    options: ReadOptions | None = None,
    *,
    quiet: bool = False,
) -> VirtualClinics:
    """Find or render a study's images, decode them, and divide them into clinics.

    Args:
        study: what is run.
        data: folder of labelled images; None where the study renders its own (`data.phantom`).
        cache: where decoded images are kept; None: melfed's own cache.
        options: what a person says about the folder that its tables do not say.
        quiet: tell nothing on stderr.

    Raises:
        StudyError: there is no folder, or one too many.
        DataError: as `melfed.simulations.partition.virtual_clinics.divide`.
    """
    cache = cache or default_cache()
    if data is None:
        if study.data.phantom is None:
            raise StudyError(f"study {study.name} needs images: add --data DIR (in Python, data=DIR)")
        _tell("All images are synthetic: the numbers say nothing about real patients.", quiet, style="yellow")
        with Bar("rendering synthetic lesions", quiet=quiet) as progress:
            data = phantom_folder(study, study.data.phantom, cache, progress)
    elif study.data.phantom is not None:
        raise StudyError("the study renders its own images; leave out --data, or add --set data.phantom=null")
    with Bar("decoding images", quiet=quiet) as progress:
        virtual = divide(study, data, cache, progress, options)
    if virtual.left_out:
        first = virtual.left_out[0]
        _tell(f"{len(virtual.left_out)} images are left out, for example {first.image}: {first.reason}", quiet)
    if words := count_duplicates(virtual.records, virtual.duplicates).words():
        kept = "kept together" if study.privacy is None else "in whatever parts their patients are"
        _tell(f"{words}; {kept}; `melfed-sim data` names them", quiet)
    return virtual


def _tell(text: str, quiet: bool, style: str | None = None) -> None:
    if not quiet:
        errors.print(text, style=style)
