"""Units of work outside of handlers: writes and events that commit together."""

from collections.abc import Sequence
from typing import Any, Protocol

from millstream.contracts.envelope import Envelope
from millstream.core.store import Page, StoreTransaction


class EnvelopeOf(Protocol):
    """Puts a message into its envelope; the app does."""

    def __call__(self, message: object, *, correlation: str | None = None, id: str | None = None) -> Envelope: ...


class UnitOfWork:
    """Writes and events that commit together; made by `App.unit_of_work()`."""

    def __init__(self, envelope_of: EnvelopeOf, transaction: StoreTransaction) -> None:
        self._envelope_of, self._transaction = envelope_of, transaction
        self._events: list[Envelope] = []

    def execute(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement in the store's transaction; give its rows."""
        return self._transaction.execute(sql, params)

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each row."""
        self._transaction.executemany(sql, rows)

    def publish(self, message: object, *, correlation: str | None = None, id: str | None = None) -> Envelope:
        """Publish with the commit: if it does not come, the event never was."""
        envelope = self._envelope_of(message, correlation=correlation, id=id)
        self._events.append(envelope)
        return envelope

    def finish(self) -> list[Envelope]:
        """Enter the events into the transaction, which is about to be committed; gives them."""
        if self._events:
            self._transaction.apply(Page(group="", events=self._events))
        return self._events
