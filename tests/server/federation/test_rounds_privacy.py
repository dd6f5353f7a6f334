"""The round loop of a private study: what clinics must say of their privacy, and which histograms they may send."""

import math
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from melfed.common import messages
from melfed.common.errors import QuorumError
from melfed.common.metrics.noisy_histogram import NoisyHistogram, pooled
from melfed.server.runs.outcome import ReportedAccount
from tests.server.fakes import (
    EVALUATION_NOISE,
    HEADS,
    NOISE,
    Run,
    Tamper,
    arrays,
    changed,
    clinics_of,
    grid_of,
    noised_scores_of,
    scores_of,
    study_of,
)

NOISED, PUBLIC = {"evaluation": "noised"}, {"evaluation": "public"}
SENSELESS = "its privacy account is missing or makes no sense"


def run_of(path: Path, privacy: dict[str, object], tamper: dict[str, Tamper] | None = None, rounds: int = 2) -> Run:
    """A run whose clinic c may be tampered with, and is not needed."""
    study = study_of(rounds=rounds, quorum=0.5, privacy=privacy)
    clinics = clinics_of(study)
    clinics[2].tamper = tamper or {}
    return Run(path, study, grid_of(clinics, order=lambda ready: ready[::-1]))


@pytest.mark.parametrize("privacy", [NOISED, PUBLIC])
def test_a_private_run_keeps_the_last_account_of_each_clinic_and_no_loss(
    tmp_path: Path, privacy: dict[str, object]
) -> None:
    run = run_of(tmp_path / "run", privacy, rounds=3)
    outcome = run.conduct()
    evaluation = EVALUATION_NOISE if privacy is NOISED else None
    assert outcome.accounts == {
        name: ReportedAccount(pytest.approx(0.4), HEADS[name], NOISE, evaluation)  # type: ignore[arg-type]
        for name in "abc"
    }
    assert list(outcome.accounts) == ["a", "b", "c"]
    assert [event["train_loss"] for event in run.events("round")] == [None] * 3
    assert [call[2] for call in run.observer.of("round_finished")] == [None] * 3
    assert all(event["failed"] == {} for event in run.events("round"))


def test_noised_histograms_are_pooled_with_their_noise(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", NOISED)
    outcome = run.conduct()
    expected = pooled([noised_scores_of(name, "validation", 9) for name in "abc"])
    assert isinstance(expected, NoisyHistogram)
    assert [event["histogram"] for event in run.events("validation")] == [expected.to_lists()] * 2
    for name in "abc":
        assert outcome.test[name].to_lists() == noised_scores_of(name, "test", 12).to_lists()


def test_a_loss_that_a_private_clinic_tells_is_not_kept(tmp_path: Path) -> None:
    def talks(content: RecordDict) -> RecordDict:
        content["metrics"] = MetricRecord({**content.metric_records["metrics"], "loss": 0.123})
        return content

    run = run_of(tmp_path / "run", NOISED, {messages.TRAIN: talks})
    run.conduct()
    assert run.events("round")[0]["answered"] == ["a", "b", "c"]
    assert "0.123" not in (run.folder.path / "metrics.jsonl").read_text()


def account(**values: float) -> Tamper:
    return changed(account=lambda c: MetricRecord({**c.metric_records["account"], **values}))


def silent_on(key: str) -> Tamper:
    def without(content: RecordDict) -> MetricRecord:
        return MetricRecord({name: n for name, n in content.metric_records["account"].items() if name != key})

    return changed(account=without)


def head(value: object) -> Tamper:
    return changed(ledger=lambda _c: ConfigRecord({"head": value}))


SENSELESS_ACCOUNTS: dict[str, Tamper] = {
    "no account": changed(account=lambda _c: None),
    "no ledger": changed(ledger=lambda _c: None),
    "no epsilon": silent_on("epsilon"),
    "no sigma": silent_on("noise_multiplier"),
    "no sigma of the histograms": silent_on("evaluation"),
    "nan epsilon": account(epsilon=math.nan),
    "negative epsilon": account(epsilon=-0.1),
    "negative sigma": account(noise_multiplier=-1.0),
    "endless sigma": account(noise_multiplier=math.inf),
    "nan sigma": account(noise_multiplier=math.nan),
    "negative sigma of the histograms": account(evaluation=-4.0),
    "endless sigma of the histograms": account(evaluation=math.inf),
    "empty head": head(""),
    "short head": head("ab" * 31),
    "long head": head("ab" * 33),
    "upper case": head("AB" * 32),
    "head and a line": head("ab" * 32 + "\n"),
    "markup": head("<script>".ljust(64, "a")),
    "number": head(7),
}


@pytest.mark.parametrize("kind", [messages.TRAIN, messages.EVALUATE])
@pytest.mark.parametrize("name", SENSELESS_ACCOUNTS)
def test_a_reply_without_a_sensible_account_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    run = run_of(tmp_path / "run", NOISED, {kind: SENSELESS_ACCOUNTS[name]}, rounds=1)
    outcome = run.conduct()
    (event,) = run.events("round")
    ((_, clinic, told),) = [call for call in run.observer.of("replied") if call[2]]
    assert clinic == "c"
    assert SENSELESS in str(told)
    assert event["declined"] == {}
    if kind == messages.TRAIN:
        assert event["answered"] == ["a", "b"]
        assert SENSELESS in event["failed"]["c"]
        assert outcome.accounts["c"].epsilon == pytest.approx(0.2), "what it said with its evaluation"
    else:
        assert list(outcome.test) == ["a", "b"]
        assert outcome.accounts["c"].epsilon == pytest.approx(0.1), "what it said in the round"


def test_public_histograms_have_no_noise_to_account_for(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", PUBLIC, {messages.TRAIN: account(evaluation=4.0)}, rounds=1)
    run.conduct()
    assert SENSELESS in run.events("round")[0]["failed"]["c"]


def test_an_unbounded_epsilon_is_said_to_be_none(tmp_path: Path) -> None:
    without_noise = {messages.EVALUATE: account(epsilon=math.inf, noise_multiplier=0.0)}
    outcome = run_of(tmp_path / "run", NOISED, without_noise, rounds=1).conduct()
    assert outcome.accounts["c"] == ReportedAccount(None, HEADS["c"], 0.0, EVALUATION_NOISE)


def exact(part: str, images: int) -> Tamper:
    return changed(**{part: lambda _c: arrays(scores_of("c", part, images).to_arrays())})


def noised(part: str, images: int) -> Tamper:
    return changed(**{part: lambda _c: arrays(noised_scores_of("c", part, images).to_arrays())})


@pytest.mark.parametrize(
    ("privacy", "tamper", "part", "reason"),
    [
        (NOISED, exact("validation", 9), "validation", "its validation histogram has no noise, against the study"),
        (NOISED, exact("test", 12), "test", "its test histogram has no noise, against the study"),
        (PUBLIC, noised("validation", 9), "validation", "its validation histogram has noise, against the study"),
        (PUBLIC, noised("test", 12), "test", "its test histogram has noise, against the study"),
        (PUBLIC, exact("test", 11), "test", "scored 11 test images, not 12"),
    ],
)
def test_histograms_are_noised_if_and_only_if_the_study_says_so(
    tmp_path: Path, privacy: dict[str, object], tamper: Tamper, part: str, reason: str
) -> None:
    run = run_of(tmp_path / "run", privacy, {messages.EVALUATE: tamper}, rounds=1)
    outcome = run.conduct()
    assert list(outcome.test) == ["a", "b"]
    assert [call[1:] for call in run.observer.of("replied") if call[2]] == [("c", reason)]
    if part == "validation":

        def in_second(content: RecordDict) -> RecordDict:
            return content if content.config_records["request"]["round"] == 1 else tamper(content)

        run = run_of(tmp_path / "two", privacy, {messages.TRAIN: in_second})
        run.conduct()
        assert [event["failed"] for event in run.events("round")] == [{}, {"c": reason}]


def test_no_account_at_all_is_no_quorum(tmp_path: Path) -> None:
    study = study_of(1, rounds=1, privacy=NOISED)
    clinics = clinics_of(study, "a")
    clinics[0].tamper = {messages.TRAIN: changed(account=lambda _c: None)}
    with pytest.raises(QuorumError, match=f"0 of 1 clinics answered, 1 are needed: a: {SENSELESS}"):
        Run(tmp_path / "run", study, grid_of(clinics)).conduct()
