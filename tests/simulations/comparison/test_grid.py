"""Cells of a grid: all of them, none twice, and each refused that cannot be."""

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from melfed.common.errors import StudyError
from melfed.simulations.comparison.grid import Cell, cells_of, label, shown
from melfed.simulations.comparison.spec import Comparison, ComparisonFile, read_comparison

STUDY = {"model": {"backbone": "simple_cnn", "pretrained": False}, "federation": {"mode": "central", "rounds": 2}}
PRIVATE = {"model": {"backbone": "efficientnet_lite0"}, "privacy": {"unit": "patient", "epsilon": 3.0, "delta": 1e-5}}


def cells(tmp_path: Path, overrides: tuple[str, ...] = (), most: int = 500, **content: object) -> tuple[Cell, ...]:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({"study": STUDY, **content}, sort_keys=False))
    return cells_of(read_comparison(path), overrides, most)


def test_every_combination_is_a_cell_with_its_keys(tmp_path: Path) -> None:
    found = cells(tmp_path, vary={"federation.mode": ["central", "local"], "seed": [0, 1]})
    assert [(c.study.federation.mode, c.study.seed) for c in found] == [
        ("central", 0),
        ("central", 1),
        ("local", 0),
        ("local", 1),
    ]
    assert {c.configuration for c in found} == {(("federation.mode", "central"),), (("federation.mode", "local"),)}
    assert [c.replicate for c in found] == [(0,), (1,), (0,), (1,)]
    assert len({c.name for c in found}) == 4
    assert all(c.name.endswith(c.study.digest[:10]) for c in found)


@given(
    st.dictionaries(
        st.sampled_from(["seed", "training.batch_size", "federation.rounds", "training.seed"]),
        st.lists(st.integers(1, 60), min_size=1, max_size=4, unique=True),
        max_size=3,
    )
)
def test_a_grid_has_the_product_of_its_values(vary: dict[str, list[int]]) -> None:
    comparison = Comparison(study=STUDY, vary={key: tuple(values) for key, values in vary.items()})
    found = cells_of(ComparisonFile(Path("grid.yaml"), comparison, {}))
    assert len(found) == math.prod(map(len, vary.values()))
    assert len({cell.name for cell in found}) == len(found)


def test_a_study_may_be_a_file_and_be_changed_for_all(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**STUDY, "name": "base"}))
    found = cells(tmp_path, ("federation.rounds=7",), study="study.yaml", vary={"seed": [4]})
    assert (found[0].study.name, found[0].study.federation.rounds, found[0].study.seed) == ("base", 7, 4)


def test_groups_set_and_vary_keys_of_their_own(tmp_path: Path) -> None:
    groups = {"short": {"set": {"federation.rounds": 1}}, "long": {"vary": {"federation.rounds": [3, 4]}}}
    found = cells(tmp_path, vary={"seed": [0, 1]}, groups=groups)
    assert [(c.group, c.study.federation.rounds, c.study.seed) for c in found] == [
        ("short", 1, 0),
        ("short", 1, 1),
        *(("long", rounds, seed) for seed in (0, 1) for rounds in (3, 4)),
    ]
    assert label(found[-1].configuration) == "long, rounds 4"


def test_what_is_excluded_is_no_cell(tmp_path: Path) -> None:
    vary = {"federation.mode": ["central", "local"], "seed": [0, 1, 2]}
    found = cells(tmp_path, vary=vary, exclude=[{"federation.mode": "local", "seed": [1, 2]}])
    assert [(c.study.federation.mode, c.study.seed) for c in found] == [
        *(("central", s) for s in range(3)),
        ("local", 0),
    ]


def test_infinite_epsilon_is_no_noise_and_all_else_as_stated(tmp_path: Path) -> None:
    none, three = cells(tmp_path, study=PRIVATE, vary={"privacy.epsilon": [math.inf, 3.0]})
    assert (none.study.privacy.epsilon, none.study.privacy.noise_multiplier) == (None, 0.0)
    assert three.study.privacy.epsilon == 3.0
    assert label(none.configuration) == "epsilon ∞"
    assert three.choices
    assert three.study.privacy.recipe == "manual"


def test_the_same_study_has_the_same_folder_in_a_larger_grid(tmp_path: Path) -> None:
    small = cells(tmp_path, vary={"seed": [0]})
    assert small[0].name in {c.name for c in cells(tmp_path, vary={"seed": [0, 1]})}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"vary": {"seed": []}}, "a grid without cells"),
        ({"vary": {"seed": [0]}, "exclude": [{"seed": 0}]}, "a grid without cells"),
        ({"vary": {"seed": list(range(9))}}, "9 cells, and 8 are allowed"),
        ({"vary": {"seed": list(range(900))}}, "900 cells, and 8 are allowed"),
        ({"vary": {"modell.backbone": ["a"]}}, "grid.yaml:9: unknown key modell"),
        ({"vary": {"model.bakbone": ["a"]}}, "did you mean model.backbone"),
        ({"vary": {"model.backbone": ["resnet19"]}}, "no backbone 'resnet19'"),
        ({"vary": {"seed.x": [1]}, "set": {"seed": 1}}, "seed is a value, not a section"),
        ({"vary": {"privacy.epsilon": [3.0]}, "set": {"privacy.unit": "patient"}}, "privacy is for federation.mode"),
        ({"exclude": [{"model.backbone": "x"}]}, "exclude names model.backbone"),
        ({"vary": {"federation.algorithm": ["fedavg", "fedprox"]}}, "one and the same study"),
        ({"groups": {"a": {}, "b": {}}}, "their groups set the same"),
        ({"vary": {"training.momentum": [0.1, 0.2]}}, "training.momentum would have no effect"),
        ({"study": "missing.yaml"}, "missing.yaml: no such study file"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    tmp_path: Path, content: dict[str, object], words: str
) -> None:
    with pytest.raises(StudyError) as error:
        cells(tmp_path, most=8, **content)
    assert words in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


def test_a_cell_that_cannot_be_is_named(tmp_path: Path) -> None:
    vary = {"federation.mode": ["federated", "central"], "privacy.epsilon": [3.0]}
    with pytest.raises(StudyError, match=r"cell federation.mode central, privacy.epsilon 3"):
        cells(tmp_path, study=PRIVATE, vary=vary)


def test_values_are_shown_as_they_are_read() -> None:
    assert [shown(v) for v in (None, 1, 0.25, ["mel", "bcc"])] == ["null", "1", "0.25", '["mel", "bcc"]']
    assert label(()) == "the study"
