"""Who a process is, and how large."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from melfed.simulations.benchmarks.memory import (
    Memory,
    Peaks,
    by_role,
    growth,
    larger,
    memory,
    numbers,
    role,
    run,
)

PYTHON = "/venv/bin/python3 -P -m"


@pytest.mark.parametrize(
    ("command", "parent", "expected"),
    [
        (f"{PYTHON} melfed.client.cli.main worker --config /k/clinic.yaml", "client: supervisor", "client: worker"),
        (
            f"{PYTHON} melfed.client.cli.main messenger --config /k/clinic.yaml",
            "client: supervisor",
            "client: messenger",
        ),
        (
            f"{PYTHON} melfed.client.cli.main messenger --config /k/clinic.yaml",
            "client: messenger",
            "client: ClientApp",
        ),
        (f"{PYTHON} melfed.server.cli.main serverapp --daemon 1", "server: superexec", "server: serverapp"),
        (
            "/venv/bin/python3 -P -c from multiprocessing.spawn import spawn_main; spawn_main(1, 2)",
            "server: serverapp",
            "server: serverapp, aside",
        ),
        ("nginx: master process nginx -c x", "server: supervisor", "server: nginx master"),
        ("nginx: worker process", "server: nginx master", "server: nginx workers"),
        ("/venv/bin/python3 /venv/bin/melfed-client start /k", "", "client: supervisor"),
        ("/venv/bin/python3 /venv/bin/melfed-server start", "", "server: supervisor"),
        ("/venv/bin/python3 -I /x/supervised.py watch abc", "server: supervisor", "server: keeper"),
        ("sleep 5", "server: supervisor", ""),
    ],
)
def test_processes_have_names(command: str, parent: str, expected: str) -> None:
    assert role(command, parent) == expected


def test_a_process_and_its_children_are_found_and_measured() -> None:
    code = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytearray(60_000_000); print(1); input()'])"
    )
    marked = [sys.executable, "-c", code, "melfed-client", "start"]
    with subprocess.Popen(marked, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            found, own = by_role([process.pid]), memory(process.pid)
            # The child has no name of its own, so it counts with its parent.
            assert found.keys() == {"client: supervisor"}
            assert own is not None
            assert own.resident < 50e6 < 60e6 <= found["client: supervisor"].resident
            peaks = Peaks()
            peaks.look([process.pid])
        finally:
            process.kill()
    assert memory(process.pid) is None
    peaks.look([process.pid])
    assert peaks.roles["client: supervisor"].resident >= 60e6


def test_memory_is_in_bytes() -> None:
    now = memory(os.getpid())
    assert now is not None
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert now.resident == pytest.approx(pages * os.sysconf("SC_PAGESIZE"), rel=0.2)
    assert numbers("Rss:   12 kB\nName:  x\nPss:\t 3 kB\n") == {"Rss": 12288, "Pss": 3072}


def test_the_largest_counts_and_growth_is_of_those_that_stayed() -> None:
    assert larger(Memory(1, 5, 3), Memory(4, 2, 6)) == Memory(4, 5, 6)
    assert growth({"a": 5, "gone": 1}, {"a": 7, "new": 9}) == {"a": 2}


def test_a_commands_memory_has_that_of_what_it_starts() -> None:
    hold = "held = bytearray(60_000_000); import time; time.sleep(1.5)"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}], check=True); print('done')"
    text, most = run([sys.executable, "-c", start])
    assert text == "done\n"
    assert 60e6 < most < 200e6


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        run([sys.executable, "-c", "raise SystemExit('no such thing')"])
