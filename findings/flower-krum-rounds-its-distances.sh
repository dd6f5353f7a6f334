#!/usr/bin/env bash
# Flower 1.42.0, Krum and MultiKrum (flwr.serverapp.strategy.multikrum): squared distances between clinics' models are taken as
# |x|² + |y|² - 2 xy of the whole models in their own float32, not of what the clinics changed. Models of one round lie close
# together, so nearly all digits cancel: with a million parameters, and changes of a thousandth of the model's length (a pass
# of gentle fine-tuning; a tenth would be training from scratch), distances are wrong by their own size, some are negative, a
# model is often not the nearest to itself (the rule leaves out the first of the order, taking it for itself), and the model that is
# chosen is another one than that of the same rule in float64, more often than not. All models here are honest ones.
#
# melfed sums squares of float64 differences, parameter by parameter (common/aggregation/krum.py).
#
# Installs pinned packages into a temporary folder; needs Python 3.11 or newer and PyPI. Leaves with 1 when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet flwr==1.42.0 numpy==2.4.6
cat >"$folder/finding.py" <<'PYTHON'
import sys

import flwr
import numpy as np
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp.strategy.multikrum import compute_distances, select_multikrum

CLINICS, PARAMETERS, TIMES = 8, 1_000_000, 20
LENGTHS = 0.5 + 0.15 * np.arange(CLINICS)  # of the clinics' changes: one clinic is plainly the nearest to the others


def once(change, random):
    """Return whether Flower chooses as float64 does, the share of negative distances, how many are not nearest to themselves."""
    model = (0.02 * random.standard_normal(PARAMETERS)).astype(np.float32)
    models = []
    for length in random.permutation(LENGTHS):
        step = random.standard_normal(PARAMETERS)
        models.append((model + step * (length * change * np.linalg.norm(model) / np.linalg.norm(step))).astype(np.float32))
    contents = [RecordDict({"arrays": ArrayRecord([one])}) for one in models]
    found = compute_distances([content["arrays"] for content in contents])
    exact = np.array([[np.square(one.astype(np.float64) - other).sum() for other in models] for one in models])
    scores = np.sort(exact, axis=1)[:, 1 : CLINICS - 2].sum(axis=1)
    chosen = [content is select_multikrum(contents, 1, 1)[0] for content in contents].index(True)
    others = ~np.eye(CLINICS, dtype=bool)
    strangers = sum(int(np.argsort(row)[0]) != place for place, row in enumerate(found))
    return chosen == int(np.argmin(scores)), float((found[others] <= 0).mean()), strangers / CLINICS


print(f"flwr {flwr.__version__}: {CLINICS} honest clinics, {PARAMETERS:,} parameters, {TIMES} times each")
same = {}
for change in (0.1, 0.01, 0.001, 0.0003):
    random = np.random.default_rng(0)
    rows = np.array([once(change, random) for _ in range(TIMES)], float)
    same[change], negative, strangers = rows.mean(axis=0)
    print(
        f"changes of {change:g} of the model: Krum chooses as in float64 in {same[change]:.0%}; "
        f"{negative:.0%} of distances are not above 0; {strangers:.0%} of models are not the nearest to themselves"
    )
as_found = same[0.1] == same[0.01] == 1 and same[0.001] < 0.75 and same[0.0003] < 0.5
print("as found" if as_found else "CHANGED")
sys.exit(not as_found)
PYTHON
"$folder/env/bin/python" "$folder/finding.py"
