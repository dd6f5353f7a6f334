"""A clinic's worker is killed, loses power, or meets a full disk at any point: the ledger never counts too little."""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from melfed.client.ledger.ledger import Charge, Ledger, verify
from melfed.client.privacy import accounting
from melfed.client.privacy.accounting import Mechanism
from melfed.common.errors import StorageError
from tests.client.ledger.fake_disk import Crash, FakeDisk
from tests.client.ledger.ledgers import DATA, DELTA, FREE, charge, cheap_epsilon, spend

PATH = Path("ledger.jsonl")


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "epsilon", cheap_epsilon)


class Clinic:
    """A worker that trains, dies, and trains again, and remembers what is true whatever the ledger says."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.disk = FakeDisk(self.random)
        self.promised: dict[int, Charge] = {}
        self.left: Counter[Charge] = Counter()
        self.kept: dict[Charge, bool] = {}
        """Results on the clinic's disk, and whether they have left."""
        self.round = 1

    def live(self) -> None:
        """Work until something happens: rounds that are computed, results that are sent again."""
        ledger = Ledger.open(PATH, DATA, disk=self.disk)
        while True:
            wish = charge(self.round, Mechanism(0.5, self.random.choice([1.0, 2.0]), 2))
            if wish in self.kept and self.random.random() < 0.5:
                ledger.settle(wish)
            else:
                reservation = ledger.reserve(wish, FREE)
                assert self.promised.setdefault(reservation.number, wish) == wish
                ledger.mark(reservation, "spent")
                self.kept[wish] = False
                ledger.mark(reservation, "released")
            self.left[wish] += not self.kept[wish]
            self.kept[wish] = True
            self.round += self.random.random() < 0.7
            if self.random.random() < 0.1:
                ledger = Ledger.open(PATH, DATA, disk=self.disk)

    def check(self) -> None:
        """What was promised is there, and what has left is counted."""
        ledger = Ledger.open(PATH, DATA, disk=self.disk)
        reserved, released = (
            [row for row in ledger.rows if row.status == status] for status in ("reserved", "released")
        )
        for number, wish in self.promised.items():
            row = reserved[number - 1]
            mechanism = Mechanism(row.sampling_rate, row.noise_multiplier, row.steps)
            assert (row.charge, row.round, mechanism) == (number, wish.round, wish.mechanism)
        counted = Counter(
            charge(row.round, Mechanism(row.sampling_rate, row.noise_multiplier, row.steps)) for row in released
        )
        assert self.left <= counted
        total = cheap_epsilon([wish.mechanism for wish in self.left.elements()], DELTA)
        assert ledger.epsilon(DELTA) >= total
        assert len(reserved) <= len(self.promised) + self.crashes, "a crash over-counts by one charge at most"

    crashes = 0


@pytest.mark.parametrize(
    "clinics", [500, pytest.param(2500, marks=[pytest.mark.exhaustive, pytest.mark.timeout(1200)])]
)
def test_thousands_of_crashes_never_under_count_and_never_damage(clinics: int) -> None:
    """Killed in, before or after any operation of the disk, with or without power lost; or an error in one of them."""
    crashes, left, ways = 0, 0, Counter[str]()
    for seed in range(clinics):
        clinic = Clinic(seed)
        for _ in range(4):
            clinic.disk.fuse = clinic.random.randrange(40)
            clinic.disk.fault = clinic.random.choice(["kill", "kill", "error"])
            power_lost = clinic.random.random() < 0.5
            try:
                clinic.live()
            except Crash:
                clinic.disk.restart(power_lost)
                ways["power" if power_lost else "kill"] += 1
            except StorageError:
                ways["error"] += 1
            crashes += 1
            clinic.crashes += 1
            clinic.check()
        left += clinic.left.total()
        spend(Ledger.open(PATH, DATA, disk=clinic.disk), charge(clinic.round))
    assert crashes == 4 * clinics
    assert min(ways.values()) > 0.8 * clinics
    assert left > 1.6 * clinics, "the crashes leave time to work"


def work_until_killed(path: Path, pipe: int, seed: int) -> None:
    """Spend in a child process, and tell each time when something has left."""
    choice = random.Random(seed)
    while True:
        ledger = Ledger.open(path, DATA)
        number = len([row for row in ledger.rows if row.status == "released"])
        for wish in (charge(number), charge(number, purpose="evaluation")):
            with ledger:
                spend(ledger, wish)
            os.write(pipe, f"{wish.purpose} {wish.round}\n".encode())
        if choice.random() < 0.3:
            ledger.reserve(charge(number, run="given up"), FREE)
            ledger.close()


def test_twenty_real_kills_never_under_count(tmp_path: Path) -> None:
    path = tmp_path / "ledgers" / "north.jsonl"
    choice = random.Random(1)
    left: list[str] = []
    for seed in range(20):
        receiving, sending = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                work_until_killed(path, sending, seed)
            finally:
                os._exit(1)
        os.close(sending)
        with os.fdopen(receiving, "rb") as told:
            first = told.readline()
            time.sleep(choice.random() * 0.03)
            os.kill(child, signal.SIGKILL)
            lines = [first, *told.readlines()]
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it worked until it was killed"
        left += [line.decode().strip() for line in lines]
        ledger = Ledger.open(path, DATA)
        counted = Counter(f"{row.purpose} {row.round}" for row in ledger.rows if row.status == "released")
        assert Counter(left) <= counted
        verify(path)
    assert len(left) >= 20
