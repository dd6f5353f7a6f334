"""What is told after an export: what was written, and whether its probability is calibrated."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from melfed.common.terminal.export_options import tell_exported


@pytest.mark.parametrize(
    ("int8", "words"), [(None, "x.onnx: demo, simple_cnn, onnx\n"), (Path("public"), ", 8 bits\n")]
)
@pytest.mark.parametrize("calibration", [None, object()])
def test_what_was_written_is_told(
    int8: Path | None, words: str, calibration: object, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = SimpleNamespace(name="demo", backbone="simple_cnn", calibration=calibration)
    tell_exported(facts, "onnx", Path("x.onnx"), int8)  # type: ignore[arg-type]
    said = capsys.readouterr()
    assert said.out.endswith(words)
    assert ("not calibrated" in said.err) == (calibration is None)
