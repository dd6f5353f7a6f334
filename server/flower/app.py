"""The Flower ServerApp: hands Flower's grid to the round loop."""

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp


def make_app(conduct: Callable[[Grid], None]) -> ServerApp:
    """Return a ServerApp that runs `conduct` (see `melfed.server.federation.rounds`) once."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, _context: Context) -> None:
        conduct(grid)

    return app
