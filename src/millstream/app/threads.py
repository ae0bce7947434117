"""Threads that run plain functions, and keep no process from ending."""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_Work = tuple[Callable[[], Any], "Future[Any]"]


class Threads:
    """At most so many threads, each made when there is more to do than there are.

    Those of `concurrent.futures` are waited for when the interpreter ends, however long
    they take: one that does not come back would keep a process that was told to stop.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0

    def run(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Have it called in a thread; the future is of the running loop."""
        done: Future[T] = Future()
        self._work.put((function, done))
        if self._count < self._most and not self._idle.acquire(blocking=False):
            self._count += 1
            threading.Thread(target=self._serve, name=f"{self._name}_{self._count}", daemon=True).start()
        return asyncio.wrap_future(done)

    def close(self) -> None:
        """Let the threads end, each as soon as it has nothing to do."""
        for _ in range(self._count):
            self._work.put(None)
        self._count = self._most

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            function, done = work
            if done.set_running_or_notify_cancel():
                try:
                    result = function()
                except BaseException as error:  # noqa: BLE001 - it is handed to whoever waits
                    done.set_exception(error)
                else:
                    done.set_result(result)
                    del result
            # What was worked on is not kept alive by a thread that waits.
            del work, function, done
            self._idle.release()
