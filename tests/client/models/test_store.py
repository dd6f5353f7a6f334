"""Models are found by name, come back whole, and are told of in one line where they are damaged."""

from pathlib import Path

import numpy as np
import pytest
import torch

from melfed.client.models.store import KeptModel, ModelStore, load
from melfed.common.errors import RunError
from tests.client.models.delivered import FACTS, MODEL, RUN, STUDY
from tests.client.small import small_study

OTHER = "f" * 16


def kept(store: ModelStore, run: str = RUN) -> KeptModel:
    tensors = {name: value.numpy() for name, value in MODEL.state_dict().items()}
    return store.save(tensors, FACTS.model_copy(update={"run": run}), STUDY, "ab" * 32)


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    assert store.all() == []
    model = kept(store)
    assert store.all() == [model]
    found = load(model).state_dict()
    assert all(torch.equal(found[name], value) for name, value in MODEL.state_dict().items())
    store.remove(model)
    assert store.all() == []


def test_a_model_is_named_by_its_beginning_or_its_study(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    with pytest.raises(RunError, match=r"no model 'x' here: none was sent, or policy\.models takes none"):
        store.find("x")
    one = kept(store)
    for name in (one.name, STUDY.digest[:4], "small", "sm"):
        assert store.find(name) == one
    two = kept(store, OTHER)
    assert store.find(two.name) == two
    with pytest.raises(RunError, match=f"several models are called 'small': {one.name}, {two.name}"):
        store.find("small")


def test_a_run_without_a_name_for_a_file_is_refused(tmp_path: Path) -> None:
    for run in ("", "../x", "run"):
        with pytest.raises(RunError, match="does not say which run"):
            kept(ModelStore(tmp_path / "models"), run)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    model = kept(store)
    content = bytearray(model.path.read_bytes())
    content[-1] ^= 1
    model.path.write_bytes(content)
    with pytest.raises(RunError, match="damaged: it holds other than what was written"):
        load(store.find("small"))
    model.path.write_bytes(bytes(content[:20]))
    with pytest.raises(RunError, match="damaged; remove it, and ask"):
        store.all()


def test_a_model_of_another_network_is_damaged(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    store.save({"w": np.zeros(1, np.float32)}, FACTS, small_study(), "ab" * 32)
    with pytest.raises(RunError, match="of another network; the file is damaged"):
        load(store.find("small"))
