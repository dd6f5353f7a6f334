"""The ladder of a report: its rows, their order, and what each says of its cost."""

from pathlib import Path

import pytest

from melfed.common.metrics.intervals import UNDEFINED, Interval
from melfed.common.study.protocol import StudyProtocol
from melfed.server.report.ladder import WAYS, answers, own, table
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.summary import Rung
from tests.server.fake_run import CHOICES, PRIVATE, PUBLIC, FakeRun


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return FakeRun(privacy=PRIVATE, choices=CHOICES, public=PUBLIC).write(tmp_path_factory.mktemp("runs") / "run")


def study_of(mode: str, rounds: int = 6, start: str = "public") -> StudyProtocol:
    content = {
        "model": {"neck": 4, "train": "head"},
        "federation": {"mode": mode, "rounds": rounds, "start": start},
        "privacy": {"unit": "patient", "epsilon": 3.0, "recipe": "manual"},
    }
    return StudyProtocol.model_validate(content)


def test_answers_are_those_of_moments_rounds_and_the_evaluation() -> None:
    assert answers(study_of("federated")) == 7
    assert answers(study_of("federated", start="one_round")) == 8
    assert answers(study_of("one_round", rounds=1)) == 2


def test_a_run_is_a_rung_by_what_it_did(folder: RunFolder) -> None:
    summary = folder.summary()
    assert own(summary, study_of("federated")).name == "rounds"
    assert own(summary.model_copy(update={"mode": "one_round"}), study_of("one_round", rounds=1)).name == "one_round"
    assert summary.privacy is not None
    silent = summary.model_copy(update={"privacy": summary.privacy.model_copy(update={"noise_multiplier": 0.0})})
    assert own(silent, study_of("federated")).name == "no_privacy"


def test_rows_go_from_the_public_start_up_and_say_what_is_not_measured(folder: RunFolder) -> None:
    summary, study = folder.summary(), study_of("federated", start="one_round")
    public = Rung(name="public", auroc=Interval(value=0.7, low=0.6, high=0.8), epsilon=0.0, messages=1)
    bare = Rung(name="no_privacy", auroc=Interval(value=0.9, low=0.8, high=0.95), epsilon=None, messages=7)
    rows = table(summary, study, [bare, public])["rows"]
    assert rows[0]["way"].startswith("Public start")
    assert len(rows) == len(WAYS)
    assert [row["epsilon"] for row in rows][::3] == ["0", "no bound"]
    assert rows[1] == {
        "way": WAYS["one_round"],
        "auroc": UNDEFINED,
        "missing": "not measured",
        "epsilon": "–",
        "messages": "–",
    }
    assert rows[2]["way"] == "Gradient rounds that begin at a solved head (this run)"
    assert rows[2]["auroc"] == summary.test.auroc
    assert rows[2]["messages"] == 8


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    rungs = (Rung(name="public", auroc=UNDEFINED, epsilon=0.0, messages=1),)
    made = RunFolder(tmp_path)
    assert made.ladder() == ()
    made.write_ladder(rungs)
    assert made.ladder() == rungs
