"""Cells as tasks on Ray: on a cluster, or where this machine's GPUs are shared."""

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from melfed.common.errors import RunError
from melfed.common.yaml_file import one_line
from melfed.simulations.comparison.one_cell import Call, Ran
from melfed.simulations.comparison.running import Submit
from melfed.simulations.engine.ray_engine import environment

RETRIES = 2
"""So often is a task given to another machine whose own has died."""


@contextlib.contextmanager
def ray_tasks(workspace: Path, address: str | None, cpus: float, gpus: float) -> Iterator[tuple[Submit, int]]:
    """Run calls as Ray's tasks, each with its share of CPUs and GPUs.

    Args:
        workspace: of the comparison; on a cluster, all machines see it.
        address: of a running cluster; None: Ray is started here.
        cpus: cores a task.
        gpus: GPUs a task; a fraction shares one.

    Yields:
        What submits a call, and how many tasks there is room for at a time.

    Raises:
        RunError: Ray cannot be started or reached.
    """
    with environment(workspace):
        import ray

        logging.getLogger("ray").setLevel(logging.CRITICAL)
        place: dict[str, Any] = {} if address else {"_temp_dir": str(workspace / "ray")}
        try:
            ray.init(
                address=address or "local",
                include_dashboard=False if not address else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **place,
            )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise RunError(f"Ray {address or 'on this machine'}: cannot be reached ({one_line(str(error))})") from None
        try:
            found = ray.cluster_resources()  # type: ignore[no-untyped-call]
            room = int(found.get("CPU", 1) // cpus)
            if gpus:
                room = min(room, int(found.get("GPU", 0) // gpus))
            if not room:
                raise RunError(
                    f"Ray has {found.get('CPU', 0):g} CPUs and {found.get('GPU', 0):g} GPUs, and a cell asks for "
                    f"{cpus:g} and {gpus:g}; state less in resources"
                )
            yield lambda call, number: _submit(call, workspace, number, cpus, gpus), room
        finally:
            ray.shutdown()


def _submit(call: Call, workspace: Path, number: int, cpus: float, gpus: float) -> "Future[Ran]":
    import ray

    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(call)
    future: Future[Ran] = task.remote(workspace, number).future()
    return future
