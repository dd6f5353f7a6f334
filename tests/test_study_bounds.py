"""Every key of a study is bounded by the clinic's policy, or proven harmless, in one table."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from melfed.client.config.policy import ClinicPolicy
from melfed.common.study.protocol import PrivacySpec, StudyProtocol

PAGE = Path(__file__).resolve().parents[1] / "docs" / "study-bounds.md"
SECTIONS = {"privacy": PrivacySpec}
ROW = re.compile(r"^\| `(?P<key>[a-z0-9_.]+)` \| (?P<threat>[^|]+) \| (?P<bound>[^|]+) \|$", re.MULTILINE)


def keys(model: type[BaseModel] = StudyProtocol, path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = SECTIONS.get(name) or field.annotation
        # Synthetic lesions are refused as a whole.
        if isinstance(kind, type) and issubclass(kind, BaseModel) and name != "phantom":
            yield from keys(kind, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def table() -> dict[str, tuple[str, str]]:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert len(rows) == len({key for key, _, _ in rows}), "a key stands twice"
    return {key: (threat, bound) for key, threat, bound in rows}


def test_the_table_has_every_key_of_a_study_and_no_other() -> None:
    assert set(table()) == set(keys())


@pytest.mark.parametrize("key", sorted(keys()))
def test_each_key_has_a_policy_key_or_a_reason(key: str) -> None:
    threat, bound = table()[key]
    named = re.findall(r"`policy\.([a-z_]+)`", bound)
    assert set(named) <= set(ClinicPolicy.model_fields)
    reasons = (
        "no bound needed: ",
        "not read ",
        "refused ",
        "declined ",
        "the clinic's own noise",
        "clinics run",
        "not bounded: ",
    )
    assert named or bound.startswith(reasons) or threat.strip() == "–"


def test_a_key_that_is_new_is_missed() -> None:
    class Grown(StudyProtocol):
        novel: int = 0

    assert set(keys(Grown)) - set(table()) == {"novel"}
