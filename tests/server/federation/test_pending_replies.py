"""Answers to the open round on disk: they come back as they were, or not at all."""

from pathlib import Path

import numpy as np
import pytest

from melfed.common.errors import StorageError
from melfed.server.federation.pending_replies import Pending
from melfed.server.federation.reply_checks import Update
from melfed.server.runs.outcome import ReportedAccount
from tests.server.fakes import HEADS, INITIAL, assert_equal, noised_scores_of, scores_of

DIGEST = "d" * 64
TENSORS = {"w": np.full((3, 4), 0.1, np.float32), "b": np.array([-0.0, 1e-38, 3e38], np.float32)}
ACCOUNT = ReportedAccount(0.25, HEADS["a"], 2.0, None)


def update(**changes) -> Update:
    values = {"tensors": TENSORS, "weight": 20, "loss": 0.1, "validation": None, "account": None, "size": 99}
    return Update(**{**values, **changes})


@pytest.fixture
def pending(tmp_path: Path) -> Pending:
    return Pending(tmp_path / "round", DIGEST)


@pytest.mark.parametrize(
    "kept",
    [
        update(),
        update(validation=scores_of("a", "validation", 9)),
        update(validation=noised_scores_of("a", "validation", 9), account=ACCOUNT, loss=0.0),
        update(account=ReportedAccount(None, HEADS["b"], 0.0, 0.0)),
    ],
)
def test_an_answer_comes_back_as_it_was(pending: Pending, kept: Update) -> None:
    pending.keep(3, "a", kept)
    found = pending.kept(3, INITIAL)
    assert list(found) == ["a"]
    back = found["a"]
    assert_equal(back.tensors, kept.tensors)
    assert np.signbit(back.tensors["b"][0])
    assert (back.weight, back.loss, back.account, back.size) == (kept.weight, kept.loss, kept.account, kept.size)
    assert (back.validation is None) == (kept.validation is None)
    if back.validation is not None and kept.validation is not None:
        assert type(back.validation) is type(kept.validation)
        assert back.validation.to_lists() == kept.validation.to_lists()
    pending.clear()
    assert pending.kept(3, INITIAL) == {}


@pytest.mark.parametrize("name", ["a", "..", "a/b", "Köln, (Mitte)", "x" * 200, "語" * 200, ".hidden", "a" * 120])
def test_any_name_of_a_clinic_has_a_file_of_its_own(pending: Pending, name: str) -> None:
    pending.keep(1, name, update())
    pending.keep(1, "other", update(weight=2))
    (path,) = [path for path in pending.folder.iterdir() if path.name != "other.safetensors"]
    assert (path.stat().st_mode & 0o777, pending.folder.stat().st_mode & 0o777) == (0o600, 0o700)
    assert pending.kept(1, INITIAL).keys() == {name, "other"}


def test_what_comes_twice_counts_once(pending: Pending) -> None:
    pending.keep(1, "a", update(weight=1))
    pending.keep(1, "a", update(weight=2))
    assert [kept.weight for kept in pending.kept(1, INITIAL).values()] == [2.0]


def test_answers_to_another_round_or_study_or_model_do_not_count_and_are_dropped(pending: Pending) -> None:
    pending.keep(1, "a", update())
    assert pending.kept(2, INITIAL) == {}
    assert list(pending.folder.iterdir()) == []
    Pending(pending.folder, "e" * 64).keep(2, "a", update())
    assert pending.kept(2, INITIAL) == {}
    pending.keep(2, "a", update())
    assert pending.kept(2, {"w": INITIAL["w"]}) == {}
    pending.keep(2, "a", update(tensors={**TENSORS, "b": np.array([np.nan, 0, 0], np.float32)}))
    assert pending.kept(2, INITIAL) == {}


def test_a_file_under_another_name_does_not_count(pending: Pending) -> None:
    pending.keep(1, "a", update())
    (pending.folder / "a.safetensors").rename(pending.folder / "b.safetensors")
    assert pending.kept(1, INITIAL) == {}


def test_a_damaged_answer_is_as_good_as_none(pending: Pending) -> None:
    """Cut anywhere, or with any byte altered."""
    pending.keep(1, "a", update(validation=scores_of("a", "validation", 9), account=ACCOUNT))
    path = pending.folder / "a.safetensors"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 150):
        altered = bytearray(whole)
        altered[place] ^= 1 << int(rng.integers(8))
        for content in (bytes(altered), whole[:place]):
            path.write_bytes(content)
            found = pending.kept(1, INITIAL)
            # Safetensors pads its header with blanks that mean nothing.
            assert found == {} or (content != whole[:place] and set(found) == {"a"} and _same(found["a"]))
    path.write_bytes(whole)
    assert list(pending.kept(1, INITIAL)) == ["a"]


def _same(found: Update) -> bool:
    return all(found.tensors[name].tobytes() == TENSORS[name].tobytes() for name in TENSORS) and found.weight == 20


def test_a_process_that_was_killed_while_it_wrote_leaves_nothing_that_counts(pending: Pending) -> None:
    pending.keep(1, "a", update())
    (pending.folder / ".b.safetensors.1a2b3c4d").write_bytes(b"half")
    assert list(pending.kept(1, INITIAL)) == ["a"]
    assert [path.name for path in pending.folder.iterdir()] == ["a.safetensors"]


def test_what_cannot_be_written_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "round").write_text("no folder")
    with pytest.raises(StorageError):
        Pending(tmp_path / "round", DIGEST).keep(1, "a", update())
