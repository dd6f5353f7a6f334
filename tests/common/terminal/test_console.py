"""What the commands share: an error is one line, and output has no markup."""

import sys

import pytest
import typer

from melfed.common.errors import StorageError
from melfed.common.terminal.console import errors, output, run_app


def test_ctrl_c_leaves_quietly(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["stop"])
    with pytest.raises(SystemExit) as caught:
        run_app(app)
    assert caught.value.code == 130
    assert capsys.readouterr().err == ""


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["fail"])
    run_app(app)


def test_a_folder_of_another_user_is_named_with_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as caught:
        failing(monkeypatch, PermissionError(13, "Permission denied", "/var/lib/other"))
    assert caught.value.code == StorageError.exit_code
    assert capsys.readouterr().err == (
        "error: /var/lib/other: Permission denied; see who owns it, and give this command as that user\n"
    )


@pytest.mark.parametrize("error", [PermissionError("no file"), ValueError("a bug")])
def test_what_nobody_can_mend_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(type(error)):
        failing(monkeypatch, error)


def test_what_looks_like_markup_or_an_emoji_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output.print("study.yaml:100: [red]a[/red]")
    errors.print("study.yaml:100: [red]a[/red]")
    assert capsys.readouterr() == ("study.yaml:100: [red]a[/red]\n",) * 2
