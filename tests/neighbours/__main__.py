"""`python -m tests.neighbours`: the worst that one patient can change, for each way to learn, as a table."""

import argparse
import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tests.neighbours.combinations import COMBINATIONS, bench_of


def main() -> int:
    """Print the table; returns 1 where a bound does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.neighbours", description=__doc__)
    parser.add_argument("--steps", type=int, default=40, help="models tried for each combination")
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    held = True
    sys.stdout.write(f"{'combination':<46}{'difference/C':>14}{'share/C':>14}{'others/C':>12}  holds\n")
    with TemporaryDirectory() as weights:
        for combination in COMBINATIONS:
            with bench_of(combination, Path(weights)) as bench:
                worst, measured = bench.worst(chosen.steps, chosen.seed)
            held &= worst <= 1
            values = f"{measured.difference:>14.9f}{measured.share:>14.9f}{measured.rounding:>12.2g}"
            sys.stdout.write(f"{combination!s:<46}{values}  {'yes' if worst <= 1 else 'NO'}\n")
            sys.stdout.flush()
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
