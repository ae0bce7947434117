"""An App for threads without a loop."""

import asyncio
import threading
from collections.abc import Coroutine, Generator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from millstream.app.unit_of_work import UnitOfWork
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import NotStartedError

if TYPE_CHECKING:
    from millstream.app.app import App

T = TypeVar("T")


class SyncApp:
    """Publishing, units of work and reading from any thread; the app itself lives in a thread of its own.

    Handlers do not run here, but the outbox is relayed.
    """

    def __init__(self, app: "App") -> None:
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing: asyncio.Event | None = None

    def __enter__(self) -> Self:
        opened: list[BaseException | None] = []
        ready = threading.Event()

        async def live() -> None:
            self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
            try:
                async with self._app, asyncio.TaskGroup() as tasks:
                    relay = self._app.relay()
                    if relay is not None:
                        tasks.create_task(relay.run(self._closing))
                    ready.set()
                    await self._closing.wait()
            except BaseException as error:  # handed to whoever enters
                opened.append(error)
                ready.set()

        self._thread = threading.Thread(target=lambda: asyncio.run(live()), name=f"millstream:{self._app.name}", daemon=True)
        self._thread.start()
        ready.wait()
        if opened:
            self._thread.join()
            self._loop = None
            raise opened[0] or RuntimeError("the app did not open")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._loop is not None and self._closing is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()
        self._loop = None

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            coroutine.close()
            raise NotStartedError("use `with app.sync() as app:`")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def publish(self, message: object, *, correlation: str | None = None, id: str | None = None) -> Envelope:
        """Publish one event; it is durable when this returns."""
        return self._call(self._app.publish(message, correlation=correlation, id=id))

    def publish_many(self, messages: Sequence[object]) -> list[Envelope]:
        """Publish several events at once; all of them are durable when this returns."""
        return self._call(self._app.publish_many(messages))

    def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query on this service's own store."""
        return self._call(self._app.read(sql, params))

    @contextmanager
    def unit_of_work(self) -> Generator[UnitOfWork]:
        """Writes and events together; see `App.unit_of_work`."""
        transaction = self._app.store.begin_now()
        try:
            work = UnitOfWork(self._app.envelope_of, transaction)
            yield work
            work.finish()
        except BaseException:
            transaction.end(commit=False)
            raise
        transaction.end(commit=True).wait()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._app.outbox_changed)
