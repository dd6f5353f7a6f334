#!/usr/bin/env bash
# timm 1.0.31: create_model(..., pretrained=True) with a file of weights that lacks a quarter of the network's tensors. With the
# file's own number of classes it is an error that names each of them, as one would guess. With any other number of classes,
# which is how a network is taken for a task of one's own, the tensors that are missing stay random: no exception and no
# warning (a line at level INFO, which Python does not show). A stage that is random in a trained network still learns
# something, so nothing in the results need tell.
#
# melfed has timm load the file with its own number of classes, which is strict, and takes the classifier out afterwards
# (common/model/backbones/timm_models.py).
#
# Installs pinned packages into a temporary folder; needs Python 3.11 or newer and PyPI. Leaves with 1 when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet timm==1.0.31 torch torchvision
cat >"$folder/finding.py" <<'PYTHON'
import sys
import warnings

import timm
import torch

FILE = sys.argv[1]


class Heard:
    """Counts what is written to stderr: Python writes warnings of loggers there that nobody has set up."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def load(classes):
    """Return whether the file is refused, what is warned of, and the tensors of the last stage."""
    torch.manual_seed(1)
    heard, before = Heard(), sys.stderr
    sys.stderr = heard
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = timm.create_model("resnet18", pretrained=True, num_classes=classes, pretrained_cfg_overlay={"file": FILE})
    except RuntimeError as error:
        return "refused: " + str(error).splitlines()[0], None
    finally:
        sys.stderr = before
    return f"loaded, warnings: {len(caught)}, words on stderr: {len(heard.text.split())}", model.state_dict()


torch.manual_seed(0)
whole = timm.create_model("resnet18").state_dict()
half = {name: value for name, value in whole.items() if not name.startswith("layer4.")}
torch.save(half, FILE)
print(f"timm {timm.__version__}: a file with {len(half)} of {len(whole)} tensors")
answers = {classes: load(classes) for classes in (1000, 2, 0)}
for classes, (said, state) in answers.items():
    same = "" if state is None else ", last stage from the file: " + str(
        torch.equal(state["layer4.0.conv1.weight"], whole["layer4.0.conv1.weight"])
    )
    print(f"num_classes={classes}: {said}{same}")
silent = "loaded, warnings: 0, words on stderr: 0"
as_found = answers[1000][1] is None and all(answers[classes][0] == silent for classes in (2, 0))
print("as found" if as_found else "CHANGED")
sys.exit(not as_found)
PYTHON
"$folder/env/bin/python" "$folder/finding.py" "$folder/weights.pth"
