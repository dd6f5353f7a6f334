"""YAML files as models: what the loader takes, and errors that name file, line, key and what is allowed."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from melfed.common.errors import StudyError
from melfed.common.yaml_file import REQUIRED, Dumper, Form, Loader, model_keys, one_line


class Oven(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    degrees: float = Field(180.0, ge=0, lt=300, description="heat")


class Cake(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field(description="what it is called")
    layers: int = Field(1, ge=1, description="how many")
    oven: Oven = Oven()


FORM = Form(Cake, "cake", "name, oven", StudyError)


def read(folder: Path, text: str) -> Cake:
    path = folder / "cake.yaml"
    path.write_text(text, encoding="utf-8")
    content, places = FORM.read(path)
    return FORM.validate(content, places, str(path))


def test_a_file_becomes_the_model_and_keys_have_their_lines(tmp_path: Path) -> None:
    assert read(tmp_path, "name: plum\noven:\n  degrees: 2e2\n") == Cake(name="plum", oven=Oven(degrees=200.0))
    path = tmp_path / "cake.yaml"
    content, places = FORM.read(path)
    assert content == {"name": "plum", "oven": {"degrees": 200.0}}
    assert places == {("name",): f"{path}:1", ("oven",): f"{path}:2", ("oven", "degrees"): f"{path}:3"}


def test_keys_that_are_merged_do_not_stand_twice(tmp_path: Path) -> None:
    path = tmp_path / "cake.yaml"
    path.write_text("<<: {name: plum, layers: 2}\nname: apple\n", encoding="utf-8")
    content, places = FORM.read(path)
    assert content == {"name": "apple", "layers": 2}
    assert places[("name",)] == f"{path}:2"
    assert places[("<<", "layers")] == f"{path}:1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: plum\nlayer: 2\n", "cake.yaml:2: unknown key layer; did you mean layers?"),
        ("name: plum\ndegrees: 2\n", "cake.yaml:2: unknown key degrees; did you mean oven.degrees?"),
        ("name: plum\n7: 2\n", "cake.yaml:2: unknown key 7; known here: layers, name, oven"),
        ("layers: 2\n", "cake.yaml: name is missing: what it is called"),
        ("name: plum\nlayers: 0\n", "cake.yaml:2: layers: input should be greater than or equal to 1, not 0"),
        ("name: plum\noven: hot\n", 'cake.yaml:2: oven: input should be a section with keys of its own, not "hot"'),
        ("name: plum\nname: apple\n", "cake.yaml:2: key name stands twice (also in line 1)"),
        ("name: &a plum\nlayers: *a\n", "cake.yaml:2: not valid YAML: aliases (*name) are not allowed"),
        (
            "name: 'plum\n",
            "cake.yaml:2: not valid YAML: while scanning a quoted scalar: found unexpected end of stream",
        ),
        ("name: 2020-13-45\n", "cake.yaml: not valid YAML: month must be in 1..12"),
        ("- plum\n", "cake.yaml: a cake is a mapping of keys such as name, oven"),
        ("", "cake.yaml: a cake is a mapping of keys such as name, oven"),
        ("[" * 500, "cake.yaml: not a cake: its lists or sections are nested too deeply"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StudyError) as refused:
        read(tmp_path, text)
    assert str(refused.value) == f"{tmp_path}/{message}"


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"cake.yaml: no such cake file$"):
        FORM.read(tmp_path / "cake.yaml")
    (tmp_path / "cake.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(StudyError, match=r"cake.yaml: cannot be read: .*utf-8"):
        FORM.read(tmp_path / "cake.yaml")


def test_keys_are_listed_with_defaults_descriptions_and_ranges() -> None:
    assert list(model_keys(Cake)) == [
        ("name", REQUIRED, "what it is called"),
        ("layers", "1", "how many (≥ 1)"),
        ("oven.degrees", "180.0", "heat (≥ 0, < 300)"),
    ]


PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff\ufffe\uffff"))


@settings(deadline=None, max_examples=25)
@given(st.dictionaries(PLAIN, PLAIN | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none()))
def test_what_the_dumper_writes_the_loader_reads_back(content: dict[str, object]) -> None:
    text = yaml.dump(content, Dumper=Dumper, allow_unicode=True)
    assert yaml.load(text, Loader=Loader) == content


@pytest.mark.parametrize("text", ["5e-4", "1.", ".5", "-2e3", ".inf"])
def test_numbers_of_yaml_1_2_are_numbers_and_text_that_looks_like_one_is_quoted(text: str) -> None:
    assert isinstance(yaml.load(text, Loader=Loader), float)
    assert yaml.load(yaml.dump(text, Dumper=Dumper), Loader=Loader) == text


@settings(deadline=None, max_examples=25)
@given(st.text())
def test_one_line_is_one_and_short(text: str) -> None:
    line = one_line(text)
    assert len(line) <= 80
    assert line.split() == line.split(" ") or not line
