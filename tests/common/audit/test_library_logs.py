"""What a daemon's journal holds of Flower and its libraries, in a process that loads them as the daemons do."""

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]

LINES = """
import logging
import uvicorn
import flwr.app
from melfed.common.audit.library_logs import log_plainly

log_plainly()
logger = logging.getLogger("flwr")
uvicorn.Config("none:app")  # configures uvicorn's logs, as Flower's SuperNode has it done
logger.info("   ")
logger.warning("EXPERIMENTAL: SuperExec authentication is experimental and may change in future releases.")
logger.info("Starting Flower SuperNode")
for name in ("uvicorn.error", "alembic.runtime.migration", "httpx"):
    logging.getLogger(name).info("a step of its start (Press CTRL+C to quit)")
    logging.getLogger(name).error("it is broken")
"""


def test_flowers_lines_have_a_time_and_tell_something() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LINES], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", "", line) for line in lines] == [
        "INFO flwr: Starting Flower SuperNode",
        "ERROR uvicorn.error: it is broken",
        "ERROR alembic.runtime.migration: it is broken",
        "ERROR httpx: it is broken",
    ]
    assert all(line.startswith("20") for line in lines)


def test_a_librarys_own_import_is_no_news() -> None:
    """alembic 1.20.1 logs a line for each of its plugins while it is imported, seven in all."""
    lines = "from melfed.common.audit.log import configure_logging; configure_logging(); import alembic.runtime.plugins"
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("", "")
