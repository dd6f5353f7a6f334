"""Worker processes of one machine: each takes a task at a time, and one that has died is replaced.

Each is a `concurrent.futures.ProcessPoolExecutor` of a single process: an executor of several gives up all of them, and
every task, when one is killed.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any, Self

import psutil

from melfed.simulations.engine.attempts import (
    LOST,
    START_SECONDS,
    EndedError,
    LostError,
    NobodyError,
    Told,
    asked_again,
)

Create = Callable[[], ProcessPoolExecutor]


@dataclass(frozen=True)
class _Task:
    partition: int
    call: Callable[[], Any]
    future: "Future[Any]" = field(default_factory=Future)


class ProcessPool:
    """Processes that take tasks in turn, in the order in which they are given."""

    def __init__(self, create: Create, size: int, told: Told) -> None:
        """Start the processes.

        Args:
            create: makes an executor of one process.
            size: how many.
            told: hears of each task that is asked again, since its process has died.
        """
        self._told = told
        self._ended, self._places, self._lock = threading.Event(), size, threading.Lock()
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._workers = [_Worker(create, self._ended) for _ in range(size)]
        self._threads = [threading.Thread(target=self._serve, args=(worker,), daemon=True) for worker in self._workers]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, partition: int, call: Callable[[], Any]) -> "Future[Any]":
        """Give a task to the next process that is free; of a task whose process dies, another one is asked.

        Args:
            partition: whose task it is.
            call: is sent to the process.

        Returns:
            Has the result, or what the call raised; LostError where every process that was asked has died, NobodyError
            where none is left, EndedError where the pool was closed before.
        """
        task = _Task(partition, call)
        self._tasks.put(task)
        return task.future

    def close(self) -> None:
        """End all processes at once, whatever they do, and wait for their end."""
        self._ended.set()
        for worker in self._workers:
            worker.kill()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self, worker: "_Worker") -> None:
        try:
            worker.start()
        except NobodyError:
            if self._gives_way():
                return
        while (task := self._tasks.get()) is not None:
            try:
                result = asked_again(partial(worker.ask, task.call), task.partition, self._told)
            except NobodyError as error:
                if self._gives_way():
                    self._tasks.put(task)
                    return
                task.future.set_exception(error)
            except Exception as error:  # noqa: BLE001 (whoever waits for the result gets it)
                task.future.set_exception(error)
            else:
                task.future.set_result(result)
        worker.end()

    def _gives_way(self) -> bool:
        """Tell whether others are left to go on; the last place stays, to answer for all."""
        with self._lock:
            if self._places == 1:
                return False
            self._places -= 1
            return True


class _Worker:
    """One place of the pool: a process, and after its death the next one."""

    def __init__(self, create: Create, ended: threading.Event) -> None:
        self._create, self._ended = create, ended
        self._executor: ProcessPoolExecutor | None = None
        self._process: psutil.Process | None = None
        self._failed = False

    def start(self) -> ProcessPoolExecutor:
        """Return the executor, once its process is there. Raises NobodyError, EndedError."""
        if self._executor is not None:
            return self._executor
        if self._failed:
            raise NobodyError
        executor = self._create()
        try:
            self._process = psutil.Process(executor.submit(os.getpid).result(START_SECONDS))
        except (BrokenProcessPool, TimeoutError, OSError, EOFError, psutil.Error) as error:
            self._failed = True
            executor.shutdown(wait=False, cancel_futures=True)
            raise NobodyError from error
        self._executor = executor
        return executor

    def ask(self, call: Callable[[], Any]) -> Any:
        """Return the result of a call in the process. Raises LostError, NobodyError, EndedError, or what it raises."""
        if self._ended.is_set():
            raise EndedError
        executor = self.start()
        try:
            return executor.submit(call).result()
        except BrokenProcessPool:
            self.end()
            if self._ended.is_set():
                raise EndedError from None
            raise LostError(LOST) from None

    def kill(self) -> None:
        """Send the process SIGKILL, where there is one; from any thread."""
        process = self._process
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def end(self) -> None:
        """Kill the process and wait for its end."""
        self.kill()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = self._process = None
