"""The simulation's worker processes (Ray actors): where one dies, its task is asked again of another, twice.

Flower's own pool gives a dead actor's place to the next task, so that one process killed for want of memory takes most
clinics with it. Its backend is replaced at one seam, the class that `start_vce` imports, and only where Flower's parts
are those that this was made for.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ray
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import PARTITION_ID_KEY, ErrorCode
from flwr.server.superlink.fleet.vce.backend import raybackend
from flwr.simulation.ray_transport.ray_actor import ClientAppActor, pool_size_from_resources
from ray._private import worker as ray_worker
from ray.exceptions import RayError, RayTaskError
from ray.job_config import JobConfig

from melfed.common.errors import RunError
from melfed.common.flower_pins import check_flower
from melfed.simulations.engine.attempts import (
    ENDED,
    LOST,
    LOST_FOR_GOOD,
    START_SECONDS,
    EndedError,
    LostError,
    NobodyError,
    Told,
    asked_again,
    out_of_memory,
)

LOOK_SECONDS = 0.5
"""Between two looks whether the run has ended."""
DOWN_SECONDS = 30.0
"""From the death of Ray itself until clinics are given up, should the run not have ended by then."""
NOBODY = "no process is left that could do it, and none can be started: Ray is down, or there is no room"

RAYS_OWN = frozenset({"gcs_server", "raylet"})
"""Processes without which Ray cannot go on, where this process has started it."""

Actor = Any


class Actors:
    """Processes that take a task at a time, from any number of threads; dead ones are replaced where there is room."""

    def __init__(
        self, create: Callable[[], Actor], number: int, ended: threading.Event, down: threading.Event | None = None
    ) -> None:
        """Start processes.

        Args:
            create: starts one; comes back at once.
            number: of processes.
            ended: once it is set, nothing is waited for.
            down: once it is set, Ray itself is gone.
        """
        self._create, self._ended, self._down = create, ended, down or threading.Event()
        self._changed = threading.Condition()
        self._idle = [create() for _ in range(number)]
        self._places = number

    def ask(self, task: Callable[[Actor], Any]) -> Any:
        """Give a task to the next process that is free, and return its result.

        Raises:
            LostError: the process died.
            NobodyError: no process lives, and none can be started.
            EndedError: the run has ended.
            RayTaskError: what the task itself raised.
        """
        actor = self._take()
        try:
            result = self._result(task(actor))
        except RayTaskError:
            self._give_back(actor)
            raise
        except RayError as error:
            self._replace(actor)
            raise LostError(LOST) from error
        except BaseException:
            self._give_back(actor)
            raise
        self._give_back(actor)
        return result

    def terminate(self) -> None:
        """End the processes that are idle; Ray ends the others."""
        with self._changed:
            for actor in self._idle:
                _kill(actor)
            self._idle.clear()

    def _take(self) -> Actor:
        with self._changed:
            while not self._idle:
                self._check()
                if not self._places:
                    raise NobodyError
                self._changed.wait(LOOK_SECONDS)
            self._check()
            return self._idle.pop()

    def _give_back(self, actor: Actor) -> None:
        with self._changed:
            self._idle.append(actor)
            self._changed.notify()

    def _result(self, future: Any) -> Any:
        while not ray.wait([future], timeout=LOOK_SECONDS)[0]:
            self._check()
        return ray.get(future)

    def _check(self) -> None:
        if self._ended.is_set():
            raise EndedError
        if self._down.is_set():
            raise NobodyError

    def _replace(self, dead: Actor) -> None:
        """Start a process in a dead one's place, and let it be asked once it is there."""
        _kill(dead)  # where it was only out of reach, it must not go on beside its successor
        threading.Thread(target=self._start, daemon=True).start()

    def _start(self) -> None:
        actor: Actor = None
        try:
            actor = self._create()
            ready = actor.__ray_ready__.remote()
            self._await_start(ready)
        except Exception:  # noqa: BLE001 (whatever it was: there is one place less, and the tasks say so in the end)
            if actor is not None:
                _kill(actor)
            with self._changed:
                self._places -= 1
                self._changed.notify_all()
        else:
            self._give_back(actor)

    def _await_start(self, ready: Any) -> None:
        """Wait until a process is there. Raises RayError, and NobodyError where that cannot be expected any more."""
        deadline = time.monotonic() + START_SECONDS
        while not ray.wait([ready], timeout=LOOK_SECONDS)[0]:
            self._check()
            if time.monotonic() > deadline or not any(node["Alive"] for node in _nodes()):
                raise NobodyError
        ray.get(ready)


class Backend(raybackend.RayBackend):
    """Flower's Ray backend, with processes that are replaced, and without the current folder in their path."""

    def __init__(
        self, backend_config: dict[str, Any], told: Told, ended: threading.Event, down: threading.Event
    ) -> None:
        self._told, self._ended, self._down = told, ended, down
        self._actors: Actors | None = None
        self._size = 0
        super().__init__(backend_config)
        threading.Thread(target=self._watch, daemon=True).start()

    def init_ray(self, backend_config: dict[str, Any]) -> None:
        """Start Ray, or join the cluster that `init_args` names."""
        # Ray's processes inherit the environment, and not what this process has added to its own path.
        path = os.pathsep.join(entry for entry in [*sys.path, os.environ.get("PYTHONPATH", "")] if entry)
        settings = {"include_dashboard": False, **backend_config.get(self.init_args_key, {})}
        ray.init(job_config=_WithoutFolder(), runtime_env={"env_vars": {"PYTHONPATH": path}}, **settings)

    @property
    def num_workers(self) -> int:
        """How many tasks are under way at a time."""
        return self._size

    def is_worker_idle(self) -> bool:
        """Whether a task would be begun at once; Flower does not ask."""
        return bool(self._size)

    def build(self, app_fn: Callable[[], ClientApp]) -> None:
        """Start as many processes as there is room for."""
        actor: Any = ClientAppActor
        actor = actor.options(**self.client_resources)
        self._size = pool_size_from_resources(self.client_resources)
        self._actors = Actors(actor.remote, self._size, self._ended, self._down)
        self.app_fn = app_fn

    def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
        """Have a message answered; where that cannot be had, the answer is an error, in one line."""
        clinic = int(context.node_config[PARTITION_ID_KEY])

        def ask() -> tuple[str, Message, Context]:
            assert self._actors is not None  # noqa: S101 (Flower calls `build` first)
            answer: tuple[str, Message, Context] = self._actors.ask(
                lambda actor: actor.run.remote(self.app_fn, message, str(clinic), context)
            )
            return answer

        try:
            _, reply, after = asked_again(ask, clinic, self._told)
        except LostError:
            return _error(message, ErrorCode.CLIENT_APP_CRASHED, LOST_FOR_GOOD), context
        except NobodyError:
            if self._down.is_set():
                self._ended.wait(DOWN_SECONDS)  # the run ends by itself, and not for want of this clinic
            return _error(message, ErrorCode.CLIENT_APP_CRASHED, NOBODY), context
        except EndedError:
            return _error(message, ErrorCode.CLIENT_APP_CRASHED, ENDED), context
        except RayTaskError as error:
            return _error(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, _in_a_line(error)), context
        return reply, after

    def terminate(self) -> None:
        """End all processes, and Ray."""
        self._ended.set()
        if not self._down.is_set():
            if self._actors is not None:
                self._actors.terminate()
            ray.shutdown()
            return
        # Ray would try for a minute to reach what is gone, and then end this process with words of its own; an
        # interpreter that ends with the remains of Ray in it crashes.
        atexit.unregister(ray_worker.shutdown)
        atexit.register(_leave)
        node: Any = ray_worker._global_node
        ray_worker._global_node = None
        if node is not None:
            node.kill_all_processes(check_alive=False, allow_graceful=False)

    def _watch(self) -> None:
        """Notice that a process of Ray itself has died, of a Ray that this process started."""
        while not self._ended.wait(LOOK_SECONDS):
            node: Any = ray_worker._global_node
            if node is not None and any(kind in RAYS_OWN for kind, _ in node.dead_processes()):
                self._down.set()
                return


@contextlib.contextmanager
def replaced_backend(told: Told, ended: threading.Event, down: threading.Event) -> Iterator[None]:
    """Have Flower use `Backend` for as long as the context lasts.

    Args:
        told: is called with a partition and why its task is asked again; from other threads.
        ended: set when the run has ended: what is under way then is not waited for.
        down: will be set where Ray itself has died.

    Raises:
        ServiceError: Flower or Ray is not the one that this was made for.
    """
    check_flower("simulation")
    # Ray tells of each dead process in a paragraph of its own on stdout; `told` has said it in a line.
    parts = {
        (raybackend, "RayBackend"): partial(Backend, told=told, ended=ended, down=down),
        (ray_worker, "print_to_stdstream"): lambda *_, **__: None,
    }
    before = {place: getattr(*place) for place in parts}
    try:
        for place, part in parts.items():
            setattr(*place, part)
        yield
    finally:
        for place, part in before.items():
            setattr(*place, part)


class _WithoutFolder(JobConfig):
    """Ray puts the driver's current folder first in its workers' path, unless the job has a folder of its own.

    A `client.py` or `common.py` that lies there would be taken for melfed's.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True


def _nodes() -> list[dict[str, Any]]:
    return ray.nodes()  # type: ignore[no-any-return, no-untyped-call]


def _kill(actor: Actor) -> None:
    with contextlib.suppress(RayError):
        ray.kill(actor)


def _leave() -> None:
    """End this process, whose run has failed, without tidying up."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(RunError.exit_code)


def _error(message: Message, code: int, reason: str) -> Message:
    return Message(Error(code=code, reason=reason), reply_to=message)


def _in_a_line(error: RayTaskError) -> str:
    """Return what a task raised, without its traceback: kind and first line."""
    # Ray prints the traceback of what was raised first, and then that of Flower's exception about it.
    first, _, _ = str(error).partition("\n\nThe above exception was the direct cause")
    return out_of_memory(first.strip().splitlines()[-1] if first.strip() else type(error).__name__)
