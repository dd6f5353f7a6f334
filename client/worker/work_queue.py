"""The worker's computations: one at a time, each at most once, and none that nobody waits for any more.

A computation runs in a thread of its own, so that it does not end with whoever asked: who asks again joins it. It stops
at its next step (`Jobs.checkpoint`) when it is called off, when the last deadline of those who wait has passed, when a
later question of the same run has made it useless, or when the worker stops.
"""

import copy
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from melfed.client.rpc.codec import Packed
from melfed.client.worker.disclosure import BusyError
from melfed.common.errors import CancelledError, MelfedError

BUSY = "this clinic was busy with other work until the deadline; ask again, or allow more time a round"
LATE = "the deadline has passed before the work was done"


class StoppingError(CancelledError):
    """The worker stops: whoever asks finds another one there, or none."""


@dataclass(frozen=True)
class Work:
    """What is asked for: equal keys have equal answers. `run` names the study's run, `flower_run` Flower's."""

    key: str
    run: tuple[str, str]
    round: int
    flower_run: int


@dataclass
class _Job:
    work: Work
    compute: Callable[[], Packed]
    deadline: float
    flower_runs: set[int]
    begun: bool = False
    called_off: str | None = None
    answer: Packed | None = None
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Jobs:
    """The queue of computations, and the thread that does them in the order in which they were asked for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[_Job] = deque()
        self._open: dict[str, _Job] = {}
        self._current: _Job | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="computations", daemon=True)
        self._thread.start()

    def ask(self, work: Work, compute: Callable[[], Packed], seconds: float) -> tuple[Packed, bool]:
        """Return what the computation of this key gives, and whether it had been asked for already.

        Args:
            work: what is asked for.
            compute: is called in the computing thread, unless a computation of this key is under way.
            seconds: how long to wait.

        Raises:
            StoppingError: the worker stops.
            CancelledError: it was called off, or not done in time.
            BusyError: it could not begin in time.
            Exception: whatever the computation raised.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            if self._stopping:
                raise StoppingError("the worker is stopping")
            job = self._open.get(work.key)
            joined = job is not None and job.called_off is None
            if job is not None and joined:
                job.deadline = max(job.deadline, deadline)
                job.flower_runs.add(work.flower_run)
            else:
                self._call_off_stale(work)
                job = _Job(work, compute, deadline, {work.flower_run})
                self._open[work.key] = job
                self._queue.append(job)
                self._changed.notify_all()
        return self._wait(job, deadline), joined

    def checkpoint(self) -> None:
        """Return where the computation that calls this goes on. Raises CancelledError where it is to stop."""
        job = self._current
        if job is None or threading.get_ident() != self._thread.ident:
            return
        if self._stopping:
            raise StoppingError("the worker is stopping")
        if job.called_off is not None:
            raise CancelledError(job.called_off)
        if time.monotonic() > job.deadline:
            raise CancelledError(LATE)

    def cancel(self, flower_run: int | None) -> int:
        """Call off what is computed for one of Flower's runs alone (None: everything); returns how many."""
        stopped = 0
        with self._changed:
            for job in self._open.values():
                job.flower_runs -= job.flower_runs if flower_run is None else {flower_run}
                if not job.flower_runs and job.called_off is None:
                    job.called_off = "the coordinator or the clinic has called the work off"
                    stopped += 1
        return stopped

    def stop(self, seconds: float) -> bool:
        """Take no more work, stop at the next step, and wait so long for that; False where it has not come yet."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(seconds)
        if not self._thread.is_alive():
            return True
        with self._changed:
            for job in self._open.values():
                # Nobody waits for a step that does not end: the process could not end either.
                job.error = StoppingError("the worker is stopping")
                job.done.set()
        return False

    def _call_off_stale(self, work: Work) -> None:
        for job in self._open.values():
            if job.work.run == work.run and job.work.round <= work.round and job.called_off is None:
                job.called_off = f"a later request of the same run has come, for round {work.round}"

    def _wait(self, job: _Job, deadline: float) -> Packed:
        if not job.done.wait(max(deadline - time.monotonic(), 0.0)):
            raise CancelledError(LATE) if job.begun else BusyError(BUSY)
        if isinstance(job.error, MelfedError):
            # Several may wait for it: each raises an error of its own, with all that it holds.
            raise copy.copy(job.error) from job.error
        if job.error is not None:
            raise job.error
        assert job.answer is not None  # noqa: S101 (a computation has an answer or an error)
        return job.answer

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stopping)
                if not self._queue:
                    return
                job = self._current = self._queue.popleft()
            try:
                self.checkpoint()
                job.begun = True
                job.answer = job.compute()
            except Exception as error:  # noqa: BLE001 (raised again by those who wait for it)
                job.error = error
            finally:
                with self._changed:
                    self._current = None
                    if self._open.get(job.work.key) is job:
                        del self._open[job.work.key]
                job.done.set()
