"""Points in time on the command line."""

from datetime import UTC, datetime, timedelta

import pytest

from melfed.common.terminal.times import ago, moment

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0 s ago"),
        (0, "0 s ago"),
        (119, "119 s ago"),
        (120, "2 min ago"),
        (299, "4 min ago"),
        (7199, "119 min ago"),
        (7200, "2 h ago"),
        (172_799, "47 h ago"),
        (172_800, "2 days ago"),
    ],
)
def test_how_long_ago_something_was(seconds: int, said: str) -> None:
    assert ago((NOW - timedelta(seconds=seconds)).isoformat(), NOW) == said


@pytest.mark.parametrize("text", ["", "never", "2030-01-31T12:00:00"])
def test_what_is_no_time_with_a_zone_stays_as_it_is(text: str) -> None:
    assert ago(text, NOW) == text


def test_how_far_back_to_look() -> None:
    assert moment("2030-01-31T12:00") == "2030-01-31T12:00:00.000+00:00"
    assert moment("2030-01-31T12:00+02:00") == "2030-01-31T10:00:00.000+00:00"
    before = datetime.now(UTC) - timedelta(minutes=30)
    assert abs(datetime.fromisoformat(moment("30m")) - before) < timedelta(seconds=10)


@pytest.mark.parametrize("text", ["", "yesterday", "30x", "30", "999999d", "9999999m"])
def test_anything_else_is_said_to_be_wrong(text: str) -> None:
    with pytest.raises(ValueError, match="write 30m, 12h, 7d, or 2030-01-31T12:00"):
        moment(text)
