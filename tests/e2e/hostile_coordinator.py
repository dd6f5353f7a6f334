"""A coordinator that has sold out, for tests: it ships an app bundle of its own to the clinics.

As a command on the server's machine, `hostile_coordinator.py SERVER_YAML BUNDLE LOOT`, it submits the bundle through
SuperLink's control API, and is its superexec, since melfed's own starts no such thing. In the bundle it is the
ServerApp, which has the clinics run their part (`hostile_app.py`) and writes down what comes back.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

SECONDS = 400.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask every clinic, and write a JSON list of what they said."""
    content = RecordDict({"order": ConfigRecord({"do": "it"})})
    nodes = grid.get_node_ids()
    asked = [Message(content, dst_node_id=node, message_type="query.steal", ttl=SECONDS) for node in nodes]
    answers = []
    for reply in grid.send_and_receive(asked, timeout=SECONDS):
        if reply.has_error():
            answers.append({"error": str(reply.error.reason)})
        else:
            answers.append({"loot": json.loads(str(reply.content.config_records["loot"]["json"]))})
    loot = Path(str(context.run_config["run"]))
    draft = loot.with_suffix(".draft")
    draft.write_text(json.dumps(answers))
    draft.replace(loot)


def ship(server_yaml: Path, bundle: bytes, loot: Path) -> None:
    """Submit the bundle, and start its ServerApp; goes on until it is ended."""
    from melfed.server.config import read_server
    from melfed.server.flower.app_bundle import bundle_digest
    from melfed.server.flower.control_client import Control
    from melfed.server.flower.superlink import ServerApps, become_quiet, read_file

    config = read_server(server_yaml)
    become_quiet(config)
    with Control(config) as control:
        control.start_run(str(loot), bundle)
    executor = ServerApps(config, bundle_digest(bundle))
    flower = import_module("flwr.supercore.superexec.run_superexec")
    vars(flower)["get_executor"] = lambda *_, **__: executor
    flower.run_superexec(
        runtime_api_address=config.superlink,
        insecure=False,
        root_certificates_path=str(config.ca_certificate),
        superexec_auth_secret=read_file(config.superexec_secret),
        runtime_dependency_install=False,
    )


if __name__ == "__main__":
    ship(Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), Path(sys.argv[3]))
