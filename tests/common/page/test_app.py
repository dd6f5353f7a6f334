"""A page's files and its stream."""

import json

import pytest

from melfed.common.errors import RunError
from tests.common.page.made import Words
from tests.live_page import ask, served, streamed


def test_a_part_is_sent_when_it_is_new_or_has_changed() -> None:
    page = Words({"a": 1, "b": [1]}, {"a": 1, "b": [2]}, {"a": 1, "c": "</script>\n"})
    assert streamed(page, 3, "run") == [
        ("error", ""),
        ("a", 1),
        ("b", [1]),
        ("b", [2]),
        ("c", "</script>\n"),
        ("b", None),
    ]
    assert page.chosen == ["run"] * 3


def test_a_part_that_comes_back_is_sent_again() -> None:
    assert streamed(Words({"a": 1}, {}, {"a": 1}), 3) == [("error", ""), ("a", 1), ("a", None), ("a", 1)]


@pytest.mark.parametrize("error", [RunError("x: damaged"), PermissionError(13, "x: damaged")])
def test_an_error_is_told_and_what_was_shown_stays(error: Exception) -> None:
    sent = streamed(Words({"a": 1}, error, {"a": 1}), 3)
    assert [name for name, _ in sent] == ["error", "a", "error", "error"]
    assert ["damaged" in content for name, content in sent if name == "error"] == [False, True, False]


def test_a_number_that_json_lacks_is_no_part() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        streamed(Words({"a": float("nan")}))


def test_there_are_files_and_a_stream_and_no_action() -> None:
    page = Words({"a": 1})
    with served(page) as url:
        for path, kind in (("/", "html"), ("/static/page.js", "javascript"), ("/static/icon.svg", "svg")):
            status, headers, _ = ask(url, path)
            assert (status, kind in headers["content-type"]) == (200, True)
        for path in ("/static/nothing.js", "/static/..%2Fview.py", "/docs", "/openapi.json"):
            assert ask(url, path)[0] == 404
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert {ask(url, path, method)[0] for path in ("/", "/events", "/static/page.js")} == {405}
        assert ask(url, f"/events?run={'r' * 999}")[2] == "event: part\n"
    assert page.chosen[-1] == "r" * 200
    json.dumps(page.chosen)
