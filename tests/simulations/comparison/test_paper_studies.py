"""The paper's experiment is stated as the paper has it, and its smaller forms are parts of it."""

import pytest

from melfed.common.study.stop import StopSpec
from melfed.simulations.comparison.grid import Cell, cells_of
from melfed.simulations.comparison.report.paper import NAME, PAPER, SUBSTITUTES
from melfed.simulations.comparison.spec import read_comparison
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "simulations" / "studies" / "paper"


def cells(name: str) -> tuple[Cell, ...]:
    return cells_of(read_comparison(FOLDER / f"{name}.yaml"))


def test_the_full_experiment_is_the_papers() -> None:
    found = cells("full")
    assert len(found) == 420
    assert read_comparison(FOLDER / "full.yaml").comparison.published == NAME
    assert list(dict.fromkeys(each.study.model.backbone for each in found)) == list(PAPER)
    assert {each.study.seed for each in found} == set(range(10))
    for each in found:
        training, data = each.study.training, each.study.data
        assert (training.optimizer, training.learning_rate, training.batch_size) == ("adam", 5e-4, 64)
        assert (data.image_size, each.study.federation.mode, each.study.federation.rounds) == (224, "central", 15)
        assert each.study.federation.stop == StopSpec(metric="auroc", patience=3)
        assert each.study.model.train == "full"
    kinds = {(c.study.model.backbone, c.study.model.pretrained, c.study.model.metadata) for c in found}
    assert len(kinds) == 42
    assert not any(pretrained for backbone, pretrained, _ in kinds if backbone == "simple_cnn")


def test_the_reduced_one_has_a_seed_of_each_family_or_its_substitute() -> None:
    found = cells("reduced")
    families = {
        (SUBSTITUTES.get(c.study.model.backbone, c.study.model.backbone), c.study.model.pretrained) for c in found
    }
    offline = {"squeezenet1_0", "mobilenet_v2", "efficientnet_b2"}
    assert families == {(name, False) for name in PAPER} | {(name, True) for name in offline}
    assert len(found) == 14
    assert {(c.study.data.image_size, c.study.training.learning_rate, c.study.seed) for c in found} == {(64, 5e-4, 0)}


def test_the_federated_one_has_the_baselines_on_the_same_images() -> None:
    found = cells("federated")
    assert {c.study.federation.mode for c in found} == {"central", "local", "federated"}
    assert len(found) == 27


@pytest.mark.parametrize(("epsilon", "noise"), [(None, 0.0), (8.0, None), (3.0, None), (1.0, None)])
def test_the_private_one_has_every_epsilon(epsilon: float | None, noise: float | None) -> None:
    found = [c.study for c in cells("private") if c.study.privacy and c.study.privacy.epsilon == epsilon]
    assert len(found) == 3
    assert {s.privacy.noise_multiplier for s in found if s.privacy} == {noise}
    assert {s.model.weights for s in found} == {"runs/isic-public"}
