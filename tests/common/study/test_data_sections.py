"""Sections on the data: what they refuse."""

import pytest
from pydantic import ValidationError

from melfed.common.study.data_sections import DataSpec, PartitionSpec


@pytest.mark.parametrize(
    ("section", "content", "said"),
    [
        (DataSpec, {"positive": ("melonoma",)}, "melonoma"),
        (DataSpec, {"sources": ()}, "names no source"),
        (DataSpec, {"unknown": 1}, "Extra inputs"),
        (PartitionSpec, {"by": "pathological"}, "needs classes"),
        (PartitionSpec, {"classes": 2}, "of by pathological alone"),
        (PartitionSpec, {"validation": 0.6, "test": 0.5}, "leaves nothing to train on"),
        (PartitionSpec, {"by": "nothing"}, "iid"),
    ],
)
def test_what_cannot_be_is_refused(
    section: type[DataSpec | PartitionSpec], content: dict[str, object], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        section.model_validate(content)


def test_sections_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DataSpec().image_size = 64  # type: ignore[misc]
