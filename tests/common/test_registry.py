"""What has a file is registered by its name, can be stated in a study, and is listed."""

import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from melfed.common.aggregation import RULES
from melfed.common.data.readers import READERS
from melfed.common.model.backbones import BACKBONES
from melfed.common.optimizers import OPTIMIZERS
from melfed.common.partition import SCHEMES
from melfed.common.registry import entries
from melfed.common.study.file import documented_keys
from melfed.common.study.protocol import FederationSpec, PartitionSpec
from tests.conftest import REPOSITORY


def stated(folder: str, constant: str) -> set[str]:
    """The files of a folder that state a constant."""
    files = (REPOSITORY / folder).glob("*.py")
    return {path.stem for path in files if f"\n{constant} = " in path.read_text(encoding="utf-8")}


@pytest.mark.parametrize(
    ("registered", "folder", "constant"),
    [
        (RULES, "common/aggregation", "RULE"),
        (OPTIMIZERS, "common/optimizers", "OPTIMIZER"),
        (SCHEMES, "common/partition", "DEAL"),
        (READERS, "common/data/readers", "KINDS"),
    ],
)
def test_every_file_with_an_entry_is_registered_by_its_name(
    registered: Collection[str], folder: str, constant: str
) -> None:
    assert set(registered) == stated(folder, constant)
    assert registered


@pytest.mark.parametrize(
    ("key", "registered"),
    [
        ("federation.robust", RULES),
        ("federation.algorithm", OPTIMIZERS),
        ("partition.by", SCHEMES),
        ("model.backbone", BACKBONES),
    ],
)
def test_every_entry_is_listed_with_the_keys_of_a_study(key: str, registered: Collection[str]) -> None:
    (description,) = (text for name, _, text in documented_keys() if name == key)
    words = description.replace("(", " ").replace(")", " ").replace(",", " ").split()
    assert set(registered) <= set(words)


def test_every_entry_can_be_stated() -> None:
    assert {FederationSpec(robust=name).robust for name in RULES} == set(RULES)
    assert {FederationSpec(algorithm=name).algorithm for name in OPTIMIZERS} == set(OPTIMIZERS)
    for name in SCHEMES:
        assert PartitionSpec(by=name, classes=2 if name == "pathological" else None).by == name


def test_modules_without_the_constant_are_no_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "made_up_rules"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "second.py").write_text("RULE = 2\n")
    (package / "first.py").write_text("RULE = 1\n")
    (package / "helper.py").write_text("OTHER = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert list(entries("made_up_rules", [str(package)], "RULE")) == [("first", 1), ("second", 2)]
    for name in [name for name in sys.modules if name.startswith("made_up_rules")]:
        monkeypatch.delitem(sys.modules, name)
