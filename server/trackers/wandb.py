"""Weights & Biases: offline files in `RUN/wandb`, for `wandb sync` when somebody wants it; or as `WANDB_MODE` says.

What wandb records by itself is switched off: the terminal's lines, which may name images, the notebook's cells, git,
the machine.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from melfed.server.trackers.tracker import TrackedRun, require, told

if TYPE_CHECKING:
    import wandb

FOLDER = "wandb"


class WandB:
    """A `melfed.server.trackers.tracker.Tracker` that writes what `wandb sync` reads."""

    def __init__(self) -> None:
        require("wandb", "wandb")
        self._run: wandb.Run | None = None

    def started(self, run: TrackedRun) -> None:
        """See `Tracker`. A resumed run adds a part of the same id: `wandb sync` makes one run of them."""
        own = run.folder / FOLDER
        for variable in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            os.environ.setdefault(variable, str(own.resolve() / ".wandb"))  # nothing is written to a home folder
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
        )
        with told("wandb", wandb.Error, OSError):
            own.mkdir(mode=0o700, exist_ok=True)
            # wandb calls its folders by id and second: a part that goes on within the second would have the same.
            part = own / f"part-{1 + sum(path.name.startswith('part-') for path in own.iterdir())}"
            part.mkdir(mode=0o700)
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "melfed"),
                id=run.identity,
                name=run.folder.name,
                group=run.name,
                config={**run.keys, "digest": run.digest},
                dir=str(part),
                mode=_mode(),
                resume="allow",
                reinit="create_new",
                settings=settings,
            )
            self._run.define_metric("round")
            self._run.define_metric("*", step_metric="round")

    def record(self, round_number: int, numbers: Mapping[str, float]) -> None:
        """See `Tracker`."""
        import wandb

        if self._run is not None:
            with told("wandb", wandb.Error, OSError):
                self._run.log({"round": round_number, **numbers})

    def finished(self, round_number: int, numbers: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self.record(round_number, numbers)

    def close(self) -> None:
        """See `Tracker`."""
        import wandb

        if self._run is not None:
            with told("wandb", wandb.Error, OSError):
                self._run.finish()


def _mode() -> Literal["online", "offline", "disabled"]:
    found = os.environ.get("WANDB_MODE", "offline")
    return "online" if found == "online" else "disabled" if found == "disabled" else "offline"


TRACKER = WandB
