"""MLflow: a run of the experiment of the study's name, at `MLFLOW_TRACKING_URI`, else in `RUN/mlflow/mlflow.db`."""

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from melfed.server.trackers.tracker import TrackedRun, require, told

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

FOLDER = "mlflow"
IDENTITY: Final = "melfed.run"
"""Tag by which a resumed run finds its track."""

LONGEST_VALUE: Final = 500
"""Characters of a parameter that every server takes."""

MOST_AT_ONCE: Final = 100
"""Parameters that MLflow takes in one call."""


class MLflow:
    """A `melfed.server.trackers.tracker.Tracker` that talks to an MLflow server or database."""

    def __init__(self) -> None:
        require("mlflow", "mlflow")
        self._client: MlflowClient | None = None
        self._run, self._status = "", "KILLED"

    def started(self, run: TrackedRun) -> None:
        """See `Tracker`."""
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        for noisy in ("mlflow", "alembic"):  # each migration of a new database is a line
            logging.getLogger(noisy).setLevel(logging.WARNING)
        with told("mlflow", MlflowException, OSError):
            uri = os.environ.get("MLFLOW_TRACKING_URI")
            folder = run.folder / FOLDER
            if not uri:
                folder.mkdir(mode=0o700, exist_ok=True)
            client = MlflowClient(tracking_uri=uri or f"sqlite:///{(folder / 'mlflow.db').resolve()}")
            found = client.get_experiment_by_name(run.name)
            where = None if uri else str(folder.resolve() / "artifacts")
            experiment = found.experiment_id if found else client.create_experiment(run.name, where)
            earlier = client.search_runs([experiment], f"tags.`{IDENTITY}` = '{run.identity}'", max_results=1)
            tags = {IDENTITY: run.identity, "melfed.study": run.digest}
            track = earlier[0] if earlier else client.create_run(experiment, run_name=run.folder.name, tags=tags)
            self._run = track.info.run_id
            client.update_run(self._run, status="RUNNING")
            parameters = [Param(key, value[:LONGEST_VALUE]) for key, value in run.keys.items()]
            for start in range(0, 0 if earlier else len(parameters), MOST_AT_ONCE):
                client.log_batch(self._run, params=parameters[start : start + MOST_AT_ONCE])
        self._client = client

    def record(self, round_number: int, numbers: Mapping[str, float]) -> None:
        """See `Tracker`."""
        import time

        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        if self._client is None:
            return
        now = int(1000 * time.time())
        with told("mlflow", MlflowException, OSError):
            metrics = [Metric(name, value, now, round_number) for name, value in numbers.items()]
            self._client.log_batch(self._run, metrics=metrics)

    def finished(self, round_number: int, numbers: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self.record(round_number, numbers)
        self._status = "FINISHED"

    def close(self) -> None:
        """See `Tracker`."""
        from mlflow.exceptions import MlflowException

        if self._client is not None:
            with told("mlflow", MlflowException, OSError):
                self._client.set_terminated(self._run, self._status)


TRACKER = MLflow
