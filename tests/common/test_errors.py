"""Errors that a user can mend: each has an exit code of its own."""

import pickle
import sys

import pytest

from melfed.common import errors
from melfed.common.data.images.decoder import ImageProblem
from melfed.common.errors import LONGEST, BudgetError, CellsError, DeclinedError, MelfedError, StudyError
from melfed.common.terminal.console import run_app


@pytest.mark.parametrize("error", [MelfedError, *MelfedError.__subclasses__()])
def test_every_error_has_its_code_and_its_words_unchanged(
    error: type[MelfedError], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import typer

    app = typer.Typer(pretty_exceptions_enable=False)
    words = f"study.yaml:100: clinic [red] of {'a long path/' * 30}"

    @app.command()
    def fail() -> None:
        raise error(words)

    monkeypatch.setattr(sys, "argv", ["fail"])
    with pytest.raises(SystemExit) as caught:
        run_app(app)
    assert caught.value.code == error.exit_code != 0
    assert capsys.readouterr().err == f"error: {words}\n"


def test_no_two_errors_have_one_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__base__ is MelfedError]
    codes = [MelfedError.exit_code, *(kind.exit_code for kind in kinds)]
    assert len(set(codes)) == len(codes) > 10


def test_a_budget_that_is_spent_is_a_refusal_whose_figures_stay_beside_its_text() -> None:
    error = BudgetError("not allowed", figures="8 of 10")
    assert isinstance(error, DeclinedError)
    assert error.exit_code == DeclinedError.exit_code
    assert (str(error), error.figures) == ("not allowed", "8 of 10")


def test_the_code_of_a_comparison_says_how_many_cells_failed() -> None:
    assert [CellsError("", number).exit_code for number in (1, 3, 99, 100, 5000)] == [21, 23, 119, 120, 120]
    assert CellsError.exit_code == 20


def test_an_error_stays_in_one_line_whatever_a_name_holds() -> None:
    for ending in ("\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\x1b[2J", "\0"):
        error = StudyError(f"study.yaml: unknown key a{ending}b")
        assert len(str(error).splitlines()) == 1
        assert str(error).isprintable()
        assert str(StudyError(str(error))) == str(error)
    assert str(StudyError("Prüfung\\n 50 % – ok")) == "Prüfung\\n 50 % – ok"
    budget = pickle.loads(pickle.dumps(BudgetError("a\nb", "c")))
    assert (str(budget), budget.figures) == ("a b", "c")
    problem = pickle.loads(pickle.dumps(ImageProblem("a\nb.png", "cut off")))
    assert (str(problem), problem.image, problem.reason) == ("a b.png: cut off", "a\nb.png", "cut off")


def test_of_a_long_value_the_beginning_is_told() -> None:
    text = str(StudyError("study.yaml:2: no backbone " + "x" * 100_000))
    assert text.startswith("study.yaml:2: no backbone xxx")
    assert text.endswith("x…")
    assert len(text) == LONGEST
    assert str(StudyError(text)) == text


def test_a_notebook_shows_the_line_alone() -> None:
    """IPython asks an exception for its own words before it shows a traceback."""
    assert StudyError("no key a\nb")._render_traceback_() == ["StudyError: no key a b"]
