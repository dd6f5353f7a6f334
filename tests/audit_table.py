"""The audit with and without each mutant, in one table: `python -m tests.audit_table --epsilon 1 --epsilon 3`.

A row a mutant of `tests.mutants` and one for the code as it is; of each ε the bound that two worlds proved, and by
what. `--only NAME` takes a part; `--again N` asks N times, to count false alarms.
"""

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.audit.door import quiet
from melfed.simulations.audit.trials import WorldsAudit, audit_worlds
from tests.mutants import MUTANTS

AS_IT_IS = "as it is"
CONFIDENCE = 0.975
"""Of one of the two parts of an audit."""


def study_at(epsilon: float, **privacy: object) -> StudyProtocol:
    """A study of default parts and privacy; only its privacy, parts and seed are audited in two worlds."""
    stated = {"unit": "patient", "epsilon": epsilon, "recipe": "manual", **privacy}
    return StudyProtocol.model_validate({"privacy": stated})


def audited(mutant: str, epsilon: float, coins: np.random.Generator, **privacy: object) -> WorldsAudit:
    """Audit two worlds with a mutant, or the code as it is."""
    broken = contextlib.nullcontext() if mutant == AS_IT_IS else MUTANTS[mutant]()
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() else None
    with broken, quiet(), tempfile.TemporaryDirectory(dir=place) as folder:
        return audit_worlds(study_at(epsilon, **privacy), epsilon, coins, Path(folder), confidence=CONFIDENCE)


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epsilon", type=float, action="append", help="claimed; 1, 2 and 3 unless stated")
    parser.add_argument("--only", action="append", help="a mutant, or 'as it is'")
    parser.add_argument("--again", type=int, default=1, help="how often each is audited")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print("| mutant | claimed ε | bound | right guesses | told by | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for mutant in chosen.only or [AS_IT_IS, *MUTANTS]:
        for epsilon in chosen.epsilon or [1.0, 2.0, 3.0]:
            for _ in range(chosen.again):
                started = time.monotonic()
                found = audited(mutant, epsilon, np.random.default_rng())
                bound = f"**{found.bound:.2f}**" if found.exceeded else f"{found.bound:.2f}"
                told = f"{found.scenario}: {found.statistic}"
                guesses = f"{found.correct} of {found.trials}"
                seconds = time.monotonic() - started
                print(f"| {mutant} | {epsilon:g} | {bound} | {guesses} | {told} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
