"""What a researcher says on the command line about a data folder that its tables do not say."""

from collections.abc import Sequence
from typing import get_args

from melfed.common.data.images.links import Links
from melfed.common.data.tables.rows import ReadOptions
from melfed.common.data.vocabulary.diagnoses import checked_mapping
from melfed.common.errors import DataError


def read_options(
    diagnoses: Sequence[str] = (), shared_ids: bool = False, classes: str | None = None, links: str = "inside"
) -> ReadOptions:
    """Return the options that the command line means.

    Args:
        diagnoses: `WORD=CODE`, a code of the vocabulary or `leave_out`; the word may hold an equals sign itself.
        shared_ids: whether equal ids of patients in several sources are one person's.
        classes: `FOLDER=CODE,FOLDER=CODE`, what the images of folders show where no table says it.
        links: which symbolic links of the folder are followed: inside, own or any (`melfed.common.data.images.links`).

    Raises:
        DataError: an option is not of that form, or names no code.
    """
    pairs = [_pair(item, "--diagnosis") for item in diagnoses]
    for word in {word for word, _ in pairs}:
        if len({code for other, code in pairs if other == word}) > 1:
            raise DataError(f"--diagnosis: '{word}' is given two codes; keep one of them")
    folders = dict(_pair(item, "--classes") for item in classes.split(",")) if classes else None
    if links not in get_args(Links):
        raise DataError(f"--links {links}: choose one of {', '.join(get_args(Links))}")
    followed: Links = next(rule for rule in get_args(Links) if rule == links)
    return ReadOptions(checked_mapping(dict(pairs), "--diagnosis"), shared_ids, folders, links=followed)


def _pair(item: str, option: str) -> tuple[str, str]:
    word, separator, code = item.rpartition("=")
    if not separator or not word.strip() or not code.strip():
        raise DataError(f"{option} {item}: write it as WORD=CODE, as in 'naevoid melanoma=mel'")
    return word.strip(), code.strip()
