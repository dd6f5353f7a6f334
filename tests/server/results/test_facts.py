"""What is told of a run's model is what its study and its summary say."""

from pathlib import Path

import pytest

from melfed.common.errors import RunError
from melfed.server.results.facts import facts_of
from melfed.server.runs.folder import RunFolder
from tests.server.fake_run import NOISED, FakeRun
from tests.server.finished import study_with


def test_a_private_run_tells_the_largest_epsilon_that_was_spent(tmp_path: Path) -> None:
    folder = FakeRun(privacy=NOISED, synthetic=True).write(tmp_path / "run")
    facts, summary = facts_of(folder), folder.summary()
    assert facts.privacy is not None
    assert summary.privacy is not None
    assert (facts.privacy.epsilon, facts.privacy.delta) == (summary.privacy.epsilon_spent, summary.privacy.delta)
    assert (facts.privacy.unit, facts.run, facts.synthetic) == ("patient", folder.identity, True)
    assert (facts.study, facts.name) == (folder.study().digest, "ham10000")


def test_a_run_without_privacy_says_so(tmp_path: Path) -> None:
    facts = facts_of(FakeRun().write(tmp_path / "run"))
    assert (facts.privacy, facts.synthetic) == (None, False)


def test_a_run_that_has_not_finished_has_no_facts(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has not finished"):
        facts_of(RunFolder.create(tmp_path / "run", study_with()))
