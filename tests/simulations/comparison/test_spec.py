"""The file of a comparison: what is read, and what is refused in one line."""

import math
from pathlib import Path

import pytest

from melfed.common.errors import StudyError
from melfed.simulations.comparison.spec import read_comparison


def written(path: Path, text: str) -> Path:
    file = path / "comparison.yaml"
    file.write_text(text)
    return file


def test_keys_values_groups_and_places(tmp_path: Path) -> None:
    text = (
        "name: grid\nstudy: {seed: 1}\nvary:\n  privacy.epsilon: [1, .inf]\n"
        "groups:\n  a:\n    set: {seed: 3}\nexclude:\n- {seed: [1, 2]}\n"
    )
    found = read_comparison(written(tmp_path, text))
    assert found.comparison.vary == {"privacy.epsilon": (1, math.inf)}
    assert found.comparison.groups["a"].set == {"seed": 3}
    assert found.comparison.exclude == ({"seed": [1, 2]},)
    assert found.place("vary", "privacy.epsilon") == f"{tmp_path}/comparison.yaml:4"
    assert found.place("groups", "a", "vary", "x") == f"{tmp_path}/comparison.yaml:6"
    assert dict(found.under("study")) == {("seed",): f"{tmp_path}/comparison.yaml:2"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vary: {seed: [0]}", "study is missing"),
        ("study: {}\nvary: {seed: [0, 1, 0]}", "seed has the value 0 twice"),
        ("study: {}\nvary: {model.neck: [null, null]}", "model.neck has the value None twice"),
        ("study: {}\nvary: {seed: 3}", "a list"),
        ("study: {}\nvari: {seed: [3]}", "unknown key vari; did you mean vary?"),
        ("study: {}\npublished: elsewhere", "published"),
        ("- a", "a comparison is a mapping"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(StudyError) as error:
        read_comparison(written(tmp_path, text))
    assert words in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "comparison.yaml"))
