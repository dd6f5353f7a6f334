"""Clinics without melfed's client: Flower's own SuperNode and a ClientApp that is scripted as `tests.server.fakes` is.

They connect to SuperLink itself, not to nginx, as Flower's SuperNode has no client certificate.
"""

import os
import subprocess
import sys
from pathlib import Path

from melfed.server.config import ServerConfig
from melfed.server.flower.superlink import quiet_environment

REPOSITORY = Path(__file__).resolve().parents[2]

PACKAGE = """
__path__.append({folder!r})
"""

APP = """
import os, time
from flwr.clientapp import ClientApp
from flwr.app import Message
from melfed.common.study.protocol import StudyProtocol
from tests.server.fakes import FakeClinic

app = ClientApp()

def answer(message, context):
    study = StudyProtocol.model_validate_json(str(message.content.config_records["request"]["study"]))
    time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")))
    return Message(FakeClinic(os.environ["STAND_IN"], study)(message), reply_to=message)

app.query("describe")(answer)
app.train()(answer)
app.evaluate()(answer)
"""


def write_package(folder: Path) -> Path:
    """A package that stands before `melfed.client`, and holds this app in place of its `flower.deployed`."""
    package = folder / "stand-in" / "melfed" / "client"
    package.mkdir(parents=True)
    for part in (package, package / "flower"):
        part.mkdir(exist_ok=True)
        own = REPOSITORY / part.relative_to(package.parent)
        (part / "__init__.py").write_text(PACKAGE.format(folder=str(own)))
    (package / "flower" / "deployed.py").write_text(APP)
    return package.parents[1]


def start_clinic(
    config: ServerConfig, name: str, key: Path, package: Path, log: Path, port: int, seconds: float = 0.0
) -> subprocess.Popen[bytes]:
    """A clinic's SuperNode; each answer takes so many seconds more."""
    environment = quiet_environment(config) | {
        "FLWR_HOME": str(package.parent / f"home-{name}"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{package}:{REPOSITORY}:{REPOSITORY}/src",
        "STAND_IN": name,
        "STAND_IN_SECONDS": str(seconds),
        "OMP_NUM_THREADS": "1",
    }
    command = ["flower-supernode", "--superlink", config.superlink, "--root-certificates", str(config.ca_certificate)]
    command += ["--auth-supernode-private-key", str(key), "--port", str(port)]
    with log.open("ab") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
