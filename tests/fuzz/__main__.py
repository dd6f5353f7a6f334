"""`python -m tests.fuzz`: any number of cases, of all targets or of one."""

import argparse
import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.check import check
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Try cases, and print a line a target; what is wrong ends it with a traceback and the command for that case."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1000, help="of each target")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--target", choices=[target.name for target in TARGETS], help="this one alone")
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)
    for target in TARGETS:
        if chosen.target in {None, target.name}:
            with TemporaryDirectory(prefix="melfed-fuzz-") as folder:
                tally = check(target, Path(folder), chosen.cases, chosen.first)
            what = f"{tally.read} read, {tally.refused} refused"
            most = f"slowest {tally.slowest:.2f} s, largest {tally.largest / 2**20:.0f} MiB"
            sys.stdout.write(f"{target.name}: {chosen.cases} cases, {what}, {most}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
