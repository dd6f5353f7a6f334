"""A study in a notebook: what is stated, what follows, what is refused, and what TAB shows."""

from pathlib import Path

import numpy as np
import pytest

import melfed.simulations
from melfed.common.errors import StudyError
from melfed.common.study.file import read_study
from melfed.simulations import Study
from melfed.simulations.studies import FOLDER


def test_sections_have_what_is_stated_and_defaults_otherwise() -> None:
    study = Study(name="first", data={"positive": ("mel", "bcc")}, seed=7)
    assert (study.name, study.data.positive, study.seed) == ("first", ("mel", "bcc"), 7)
    assert study.federation.rounds == Study().federation.rounds
    assert study["data.positive"] == ("mel", "bcc")


def test_a_changed_copy_keeps_the_other_keys_and_leaves_the_first_as_it_is() -> None:
    study = Study(federation={"rounds": 3, "mode": "central"})
    other = study.with_({"training.batch_size": 8, "federation.rounds": 4}, model={"backbone": "resnet18"}, seed=1)
    assert (other.federation.rounds, other.federation.mode) == (4, "central")
    assert (other.training.batch_size, other.model.backbone, other.seed) == (8, "resnet18", 1)
    assert study == Study(federation={"rounds": 3, "mode": "central"})
    assert study != other
    assert len({study, other, study.with_()}) == 2


def test_what_is_not_stated_stays_open_for_the_recipe() -> None:
    private = Study(privacy={"unit": "patient", "epsilon": 3.0})
    assert private.with_(seed=1).protocol.model_fields_set == {"privacy", "seed"}
    assert private.with_(privacy=None).privacy is None
    assert private["privacy.epsilon"] == 3.0


def test_numbers_of_numpy_are_numbers() -> None:
    study = Study(training={"learning_rate": np.float32(0.5), "batch_size": np.int64(8)})
    assert (study.training.learning_rate, study.training.batch_size) == (0.5, 8)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_says_the_same_to_the_command_and_here(path: Path) -> None:
    assert Study.read(path).digest == read_study(path).digest == Study.bundled(path.stem).digest
    # What is written down is the same study again.
    again = Study.read(path).yaml()
    assert Study.read(path).protocol.name in again


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"federation.round": 4}, "unknown key federation.round; did you mean federation.rounds?"),
        ({"federation.rounds": 0}, "federation.rounds"),
        ({"federation.proximal_mu": 0.1}, "would have no effect"),
        ({"model.backbone": "resnet19"}, "resnet19"),
        ({"model": 3, "model.train": "head"}, "model"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(change: dict[str, object], words: str) -> None:
    with pytest.raises(StudyError) as caught:
        Study().with_(change)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_earlier_key_may_lose_its_effect_by_a_change() -> None:
    study = Study(federation={"algorithm": "fedprox", "proximal_mu": 0.1})
    plain = study.with_({"federation.algorithm": "fedavg"})
    assert plain["federation.proximal_mu"] == 0.1
    assert plain.with_(seed=1).federation == plain.federation, "and is no mistake of the next change"


def test_a_run_may_have_recorded_keys_without_effect(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("{name: recorded, federation: {proximal_mu: 0.1}}")
    assert Study.recorded(path)["federation.proximal_mu"] == 0.1
    with pytest.raises(StudyError, match="would have no effect"):
        Study.read(path)


def test_an_unknown_name_or_key() -> None:
    with pytest.raises(StudyError, match=r"there are .*demo"):
        Study.bundled("none")
    for key in ("federation.round", "privacy.epsilon", "model"):
        with pytest.raises(KeyError):
            Study()[key]


def test_keys_are_completed_and_described() -> None:
    keys = Study.keys()
    assert keys.columns == ["key", "default", "meaning"]
    completed = Study()._ipython_key_completions_()
    assert completed == keys["key"].to_list()
    for key in completed:
        if not key.startswith("privacy."):
            Study()[key]
    private = Study(privacy={"unit": "patient", "epsilon": 3.0})
    assert all(private[key] is not None for key in ("privacy.unit", "privacy.steps"))


def test_it_is_shown_as_text_and_as_a_page() -> None:
    assert repr(Study(federation={"rounds": 3})) == "Study(federation={'rounds': 3})"
    shown = Study(name="a-study")._repr_html_()
    assert "<b>a-study</b>" in shown
    assert "rounds: 5" in shown


def test_what_a_notebook_imports_is_what_completion_shows() -> None:
    assert set(melfed.simulations.__all__) <= set(dir(melfed.simulations))
    assert all(getattr(melfed.simulations, name) for name in melfed.simulations.__all__)
    with pytest.raises(AttributeError, match="no attribute 'none'"):
        _ = melfed.simulations.none
