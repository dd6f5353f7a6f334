#!/usr/bin/env bash
# scikit-learn 1.8.0 and NumPy 2.4.6: train_test_split with the same random_state on 1,000 rows, and on the same rows and one
# more at the end. A guess would be that hardly anybody changes sides, or that the two test sets have nothing to do with
# each other (then 80 % of a test set of 20 % leave it). Neither: over 200 seeds 34 % leave it on average, and from seed to
# seed between 0.5 % and 53 %. Generator.permutation and RandomState.permutation do the same: of 1,000 places 35 and 29 %
# keep their element on average, in one seed 99.6 %, where chance would keep one. Fisher and Yates' shuffle draws from the
# last place down, each draw below a bound by rejection; the longer list's extra draw shifts the stream, until a draw that
# one bound takes and the other rejects brings both in step again, and from there all swaps are the same.
#
# So an audit of privacy, or a test of leakage, that compares a clinic with and without one patient by a split of a seed
# sees little in one seed and much in another: the hole (one patient moves others) is there in all of them. melfed divides by
# a keyed hash of each patient's own id, and its audit takes of several patients the one who moves the most others.
#
# Installs pinned packages into a temporary folder; needs Python 3.11 or newer and PyPI. Leaves with 1 when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet scikit-learn==1.8.0 numpy==2.4.6
cat >"$folder/finding.py" <<'PYTHON'
import sys

import numpy as np
import sklearn
from sklearn.model_selection import train_test_split

ROWS, SEEDS = 1000, range(200)
print(f"scikit-learn {sklearn.__version__}, NumPy {np.__version__}, {ROWS} rows, {len(SEEDS)} seeds")


def tested(rows, seed):
    return set(train_test_split(np.arange(rows), test_size=0.2, random_state=seed)[1].tolist()) - {ROWS}


left = []
for seed in SEEDS:
    before, after = tested(ROWS, seed), tested(ROWS + 1, seed)
    left.append(len(before - after) / len(before))
print(f"leave the test set: mean {np.mean(left):.3f}, least {min(left):.3f}, most {max(left):.3f}; by chance 0.800")

kept = {}
for name, make in (("Generator", np.random.default_rng), ("RandomState", np.random.RandomState)):
    kept[name] = [np.mean(make(s).permutation(ROWS) == make(s).permutation(ROWS + 1)[:ROWS]) for s in SEEDS]
    print(f"{name}: places that keep their element: mean {np.mean(kept[name]):.3f}, most {max(kept[name]):.3f}; by chance 0.001")

as_found = 0.25 < np.mean(left) < 0.45 and min(left) < 0.02 and max(left) > 0.45
as_found = as_found and all(0.2 < np.mean(one) < 0.45 and max(one) > 0.9 for one in kept.values())
print("as found" if as_found else "CHANGED")
sys.exit(not as_found)
PYTHON
"$folder/env/bin/python" "$folder/finding.py"
