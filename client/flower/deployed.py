"""The ClientApp that melfed's app bundle names: Flower loads it, already imported, in the process of each message."""

import os
from pathlib import Path

from melfed.client.flower.client_app import deployed_app

app = deployed_app(Path(os.environ["MELFED_SOCKET"]))
