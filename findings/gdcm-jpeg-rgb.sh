#!/usr/bin/env bash
# GDCM 3.2.6 (python-gdcm), ImageChangeTransferSyntax from uncompressed RGB to JPEG Baseline (Process 1) or Extended
# (Process 2 and 4): the codestream is coded as luminance and chroma, without a JFIF or Adobe segment, and the attribute
# Photometric Interpretation stays RGB (expected: YBR_FULL, or a codestream in RGB). Change() and Write() say that all went
# well. Read back by GDCM itself, and through pydicom 3.0.2 by its plug-ins gdcm, pylibjpeg and pillow, a skin tone of
# (206, 155, 136) is (168, 110, 155). The tables and factors of the codestream's components still tell that it is no RGB.
#
# Installs pinned packages into a temporary folder; needs Python 3.11 or newer and PyPI. Leaves with 1 when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet python-gdcm==3.2.6 pydicom==3.0.2 pylibjpeg==2.1.0 pylibjpeg-libjpeg==2.5.0 \
    pillow==13.0.0 numpy==2.4.6
cat >"$folder/finding.py" <<'PYTHON'
import sys
from pathlib import Path

import gdcm
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRLittleEndian

SKIN = (206, 155, 136)
WRONG = (168, 110, 155)
before, after = Path(sys.argv[1]) / "before.dcm", Path(sys.argv[1]) / "after.dcm"

made = Dataset()
made.file_meta = FileMetaDataset()
made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
made.Rows = made.Columns = 64
made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
made.PixelData = np.full((64, 64, 3), SKIN, np.uint8).tobytes()
made["PixelData"].VR = "OB"
made.save_as(before, enforce_file_format=True)
print("gdcm", gdcm.Version.GetVersion(), "pydicom", pydicom.__version__)
assert tuple(map(int, pixel_array(before)[8, 8])) == SKIN

same = True
for name in ("JPEGBaselineProcess1", "JPEGExtendedProcess2_4"):
    reader = gdcm.ImageReader()
    reader.SetFileName(str(before))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(after))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    again = gdcm.ImageReader()
    again.SetFileName(str(after))
    assert again.Read()
    raw = again.GetImage().GetBuffer().encode("utf-8", "surrogateescape")
    read = {"GDCM itself": np.frombuffer(raw, np.uint8).reshape(64, 64, 3)}
    dataset = pydicom.dcmread(after)
    for plugin in ("gdcm", "pylibjpeg", "pillow"):
        read[f"pydicom with {plugin}"] = pixel_array(dataset, decoding_plugin=plugin)
    stated = dataset.PhotometricInterpretation
    print(f"{name}: Photometric Interpretation {stated}; {SKIN} is read")
    same = same and stated == "RGB"
    for reader_name, pixels in read.items():
        colour = tuple(map(int, pixels[8, 8]))
        print(f"  by {reader_name}: {colour}")
        same = same and max(abs(a - b) for a, b in zip(colour, WRONG, strict=True)) <= 2
sys.exit(0 if same else "this has changed")
PYTHON
"$folder/env/bin/python" "$folder/finding.py" "$folder"
