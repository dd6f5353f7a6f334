"""The report's first lines: whom the model has not learnt from, what a clinic gained, and what it cost it in ε."""

from pathlib import Path

import pytest

from melfed.common.metrics.exact import EvaluationMetrics
from melfed.common.metrics.intervals import UNDEFINED, Interval
from melfed.server.report.brought import LISTED, Absence, absences, gains, headlines, in_rounds, lines, table
from melfed.server.report.page import write_report
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.summary import RoundSummary, RunSummary
from tests.server.fake_run import CLINICS, NOISED, FakeRun
from tests.server.report.test_page import rows, words


def a_round(number: int, answered: str = "", **reasons: dict[str, str]) -> RoundSummary:
    told = {"train_loss": None, "validation": None, "seconds": 1.0, "bytes_up": 0, "bytes_down": 0}
    return RoundSummary(round=number, answered=tuple(answered), **{"failed": {}, **reasons}, **told)


ROUNDS = (
    a_round(1, "ab", failed={"c": "offline"}, declined={"d": "too little ε"}),
    a_round(2, "a", failed={"b": "no answer within 900 s", "c": "offline"}, declined={"d": "too little ε"}),
    a_round(3, "ab", failed={"c": "broken"}, declined={"d": "revoked"}),
    a_round(4, "a", failed={"b": "no answer within 900 s", "c": "broken"}),
)


def test_who_was_asked_in_vain_is_told_by_kind_and_round() -> None:
    assert absences(ROUNDS) == (
        Absence("b", "late", (2, 4), "no answer within 900 s"),
        Absence("c", "failed", (1, 2, 3, 4), "broken"),
        Absence("d", "declined", (1, 2, 3), "revoked"),
    )
    assert absences(()) == ()


@pytest.mark.parametrize(
    ("numbers", "of", "expected"),
    [
        ((1,), 1, "round 1"),
        ((3,), 9, "round 3"),
        ((1, 2), 9, "rounds 1 to 2"),
        ((1, 3, 5), 9, "rounds 1, 3 and 5"),
        ((1, 2, 3, 7, 9, 10), 12, "rounds 1 to 3, 7 and 9 to 10"),
        (tuple(range(1, 13)), 12, "all 12 rounds"),
    ],
)
def test_rounds_are_told_shortly(numbers: tuple[int, ...], of: int, expected: str) -> None:
    assert in_rounds(numbers, of) == expected


def summary_of(path: Path, **of: object) -> RunSummary:
    return FakeRun(**of).write(path).summary()


def with_own(summary: RunSummary, *values: float | None) -> RunSummary:
    """The same with models of their own, of these AUROC."""

    def own(test: EvaluationMetrics, value: float | None) -> EvaluationMetrics:
        auroc = UNDEFINED if value is None else Interval(value=value, low=value - 0.04, high=value + 0.03)
        return test.model_copy(update={"auroc": auroc})

    clinics = [
        clinic.model_copy(update={"local": own(clinic.test, value)})
        for clinic, value in zip(summary.clinics, values, strict=False)
    ]
    return summary.model_copy(update={"clinics": (*clinics, *summary.clinics[len(clinics) :])})


def test_the_first_lines_name_who_has_taught_the_model_nothing(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run").model_copy(update={"rounds": ROUNDS})
    assert headlines(summary) == [
        "The model has learnt nothing from c (failed in all 4 rounds: broken), d (declined in rounds 1 to 3: revoked).",
        "The model has not learnt in every round from b (did not answer in time in rounds 2 and 4: no answer within "
        "900 s).",
    ]
    whole = summary.model_copy(update={"rounds": (a_round(1, "ab"),)})
    assert headlines(whole) == []
    many = a_round(1, "a", failed={f"x{number:02}": "offline" for number in range(LISTED + 3)})
    (line,) = headlines(summary.model_copy(update={"rounds": (many,)}))
    assert line.endswith("x07 (failed in round 1: offline), and 3 clinics more.")


def test_gains_are_differences_with_the_limits_of_both(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run", privacy=NOISED)
    assert summary.privacy is not None
    told = summary.clinics[0].test.model_copy(update={"auroc": Interval(value=0.8, low=0.7, high=0.86)})
    first_clinic = summary.clinics[0].model_copy(update={"test": told})
    summary = summary.model_copy(update={"clinics": (first_clinic, *summary.clinics[1:])})
    summary = with_own(summary, 0.6, None)
    first, second = gains(summary)
    test = summary.clinics[0].test.auroc
    assert (first.clinic, second.clinic) == CLINICS[:2]
    assert first.gain.value == pytest.approx(test.value - 0.6)
    assert first.gain.low == pytest.approx(first.gain.value - ((test.value - test.low) ** 2 + 0.03**2) ** 0.5)
    assert first.gain.high == pytest.approx(first.gain.value + ((test.high - test.value) ** 2 + 0.04**2) ** 0.5)
    assert second.gain == UNDEFINED
    spent = {clinic.name: clinic.epsilon for clinic in summary.privacy.clinics}
    assert (first.epsilon, second.epsilon) == (spent[CLINICS[0]], spent[CLINICS[1]])
    (line,) = [line for line in headlines(summary) if line.startswith("Of 2 clinics")]
    assert "1 has a higher AUROC with the federation's on its own test part" in line
    assert "; of 1 that cannot be told. It cost a clinic's patients ε " in line


def test_where_nothing_can_be_compared_the_line_says_so(tmp_path: Path) -> None:
    found = headlines(with_own(summary_of(tmp_path / "run"), None))
    assert found[-1].endswith("none has test patients enough to tell what the federation brought it.")


def test_the_terminal_has_the_least_and_the_largest_gain_beside_them(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run", failed={"rosendahl": "offline"})
    assert lines(summary) == headlines(summary)
    for values in ((0.5, 0.9, None), (0.5,)):
        found = with_own(summary, *values)
        *before, last = lines(found)
        assert before == headlines(found)
        shown = {name: gain for name, _, _, gain, _ in table(found)}
        least, most = CLINICS[len(values) > 1], CLINICS[0]
        ends = dict.fromkeys([f"{shown[least]} at {least}", f"{shown[most]} at {most}"])
        assert last == f"Gain in AUROC: {' to '.join(ends)} (95 % intervals)."
    assert lines(with_own(summary, None)) == headlines(with_own(summary, None))


def test_the_page_begins_with_them_and_has_a_table(tmp_path: Path) -> None:
    folder = FakeRun(failed={"rosendahl": "<b>no</b>"}).write(tmp_path / "run")
    summary = with_own(folder.summary(), 0.6, 0.7)
    folder.write_summary(summary)
    folder.write_sums()
    page = write_report(RunFolder.open(folder.path)).read_text(encoding="utf-8")
    head = page.partition("<main>")[0]
    assert "The model has not learnt in every round from rosendahl (failed in round 2: <b>no</b>)" in words(head)
    assert "<b>no" not in page
    assert "Of 2 clinics with a model trained alone beside it" in words(head)
    found = rows(page, "brought")
    assert found[0] == ["Clinic", "Alone", "Together", "Gain", "ε"]
    assert [row[0] for row in found[1:]] == list(CLINICS[:2])
    assert found[1][1] == "0.600 (0.560 to 0.630)"
    assert [tuple(row) for row in found[1:]] == table(summary)


def test_a_run_without_such_models_has_no_such_section(tmp_path: Path) -> None:
    page = write_report(FakeRun().write(tmp_path / "run")).read_text(encoding="utf-8")
    assert 'id="brought"' not in page
