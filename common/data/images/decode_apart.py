"""Decode one frame of a DICOM file with GDCM, in a process of its own: a damaged codestream can end it.

GDCM answers some damaged lossless JPEGs with an exception that nobody catches, which ends the process. Run as a script
(`python -P decode_apart.py FRAME`): a DICOM file on the standard input, a NumPy file on the standard output. It imports
nothing of melfed, so that it starts quickly.
"""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

SECONDS: Final = 120.0
"""After this long the process is ended."""


def decode_apart(data: bytes, index: int) -> Any:
    """Return the samples of a frame as they are coded, without any conversion of colours.

    Args:
        data: the content of a DICOM file.
        index: of the frame, from 0.

    Raises:
        ValueError: it cannot be decoded.
    """
    command = [sys.executable, "-P", str(Path(__file__)), str(index)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=SECONDS, check=False)  # noqa: S603 (ours)
    except subprocess.TimeoutExpired:
        raise ValueError("decoding takes too long") from None
    if done.returncode != 0:
        raise ValueError("decoding failed")
    return np.load(io.BytesIO(done.stdout), allow_pickle=False)


def _decode() -> None:
    from pydicom import config, dcmread
    from pydicom.pixels.utils import pixel_array

    config.settings.reading_validation_mode = config.IGNORE
    dataset = dcmread(io.BytesIO(sys.stdin.buffer.read()))
    samples = pixel_array(dataset, index=int(sys.argv[1]), raw=True, decoding_plugin="gdcm")
    np.save(sys.stdout.buffer, samples, allow_pickle=False)


if __name__ == "__main__":
    _decode()
