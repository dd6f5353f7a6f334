"""Steps of a doctor: none raises, none hangs, and what cannot be examined says so."""

import json
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melfed.common.doctor.steps import (
    MARKS,
    STYLES,
    Check,
    Step,
    bad,
    doubtful,
    examine_steps,
    exit_code,
    good,
    skipped,
    to_json,
)
from melfed.common.errors import DataError


def raising(error: BaseException) -> Callable[[], None]:
    def step() -> None:
        raise error

    return step


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DataError("patient_007.jpg is broken"), "failed"),
        (OSError(5, "Input/output error", "/data/patient_007.jpg"), "failed"),
        (PermissionError(13, "Permission denied", "/data/patient_007.jpg"), "warning"),
        (KeyError("patient_007"), "failed"),
        (RecursionError(), "failed"),
        (AssertionError("patient_007"), "failed"),
    ],
)
def test_an_unforeseen_error_is_a_finding_without_its_text(error: Exception, status: str) -> None:
    (check,) = examine_steps([Step("odd", raising(error))])
    assert check.status == status
    assert "patient_007" not in f"{check.detail}{check.mend}"
    assert check.mend


def test_a_step_that_hangs_is_given_up() -> None:
    release = threading.Event()
    started = time.monotonic()
    checks = examine_steps(
        [Step("hangs", lambda: good(str(release.wait(30))), 0.2), Step("next", lambda: good("here"))]
    )
    assert time.monotonic() - started < 20
    assert [check.status for check in checks] == ["failed", "ok"]
    assert "0.2 s" in checks[0].detail
    release.set()


def test_what_needs_a_failed_or_skipped_step_is_skipped() -> None:
    ran: list[str] = []
    seen: list[Check] = []
    checks = examine_steps(
        [
            Step("a", lambda: bad("no", "do")),
            Step("b", lambda: skipped("n/a")),
            Step("c", lambda: doubtful("hm", "do")),
            Step("of a", lambda: ran.append("a") or good(""), needs=("a",)),
            Step("of b", lambda: ran.append("b") or good(""), needs=("b", "c")),
            Step("of c", lambda: ran.append("c") or good(""), needs=("c",)),
            Step("of of a", lambda: ran.append("aa") or good(""), needs=("of a",)),
        ],
        seen.append,
    )
    assert ran == ["c"]
    assert [check.status for check in checks] == ["failed", "skipped", "warning", "skipped", "skipped", "ok", "skipped"]
    assert checks[3].detail == "needs: a"
    assert seen == checks


@given(st.lists(st.sampled_from(list(MARKS)), max_size=6))
def test_the_exit_code_tells_failures_alone(statuses: list[str]) -> None:
    checks = [Check(str(number), status, "") for number, status in enumerate(statuses)]
    assert exit_code(checks) == (1 if "failed" in statuses else 0)
    assert [item["status"] for item in json.loads(to_json(checks))] == statuses


def test_every_status_has_a_mark_and_a_style() -> None:
    assert set(MARKS) == set(STYLES) == {"ok", "warning", "failed", "skipped"}
    assert len(set(MARKS.values())) == 4
