"""MLflow's database, read back by its own client."""

from pathlib import Path

import pytest

from melfed.common.errors import ServiceError
from melfed.server.trackers.mlflow import FOLDER, IDENTITY, MLflow
from tests.server.trackers.told import a_track, folder_of_a_run

pytest.importorskip("mlflow", reason="mlflow is not installed (pip install 'melfed[mlflow]')")
pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed (pip install 'melfed[mlflow]')")


@pytest.fixture(autouse=True)
def own_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_resumed_run_is_one_track(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    folder = folder_of_a_run(tmp_path / "run")
    a_track(MLflow(), folder, 1, [1, 2], ends=False)
    client = MlflowClient(tracking_uri=f"sqlite:///{folder.path / FOLDER / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    (track,) = client.search_runs([experiment.experiment_id])
    assert track.info.status == "KILLED"
    a_track(MLflow(), folder, 3, [3, 4], ends=True)
    (track,) = client.search_runs([experiment.experiment_id])
    assert track.info.status == "FINISHED"
    assert track.data.tags[IDENTITY] == folder.identity
    assert track.data.params == {"federation.rounds": "4", "training.learning_rate": "0.1"}
    history = client.get_metric_history(track.info.run_id, "train_loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert track.data.metrics["epsilon"] == 3.0


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ServiceError, match=r"^tracker mlflow: ") as caught:
        a_track(MLflow(), folder_of_a_run(tmp_path / "run"), 1, [1], ends=False)
    assert "\n" not in str(caught.value)
