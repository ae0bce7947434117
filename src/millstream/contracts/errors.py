"""Every exception Millstream raises: one tree, one file.

A message says three things: what happened, why, and what to do next.
Catch `MillstreamError` to catch them all.
"""

from collections.abc import Sequence


class MillstreamError(Exception):
    """The root of everything Millstream raises on purpose."""


# What users declare


class ContractError(MillstreamError):
    """A contract is declared wrongly, or a value does not fit the contract it was published as."""


class UnknownContractError(MillstreamError):
    """No contract is known by this name and version."""


class ConfigurationError(MillstreamError):
    """The settings contradict each other, or ask for what the chosen broker or store cannot promise."""


class HandlerResultError(MillstreamError):
    """A handler returned something that is neither a contract, a list of contracts, nor None."""


class HandlerTimeoutError(MillstreamError):
    """A handler ran longer than its subscription allows; its unit of work was rolled back."""


class NotStartedError(MillstreamError):
    """The app was used before `async with app:` opened it, or after it was closed."""


# What arrives


class DecodeError(MillstreamError):
    """Bytes could not be read as the contract they claim to be. They are kept as they came."""


class EnvelopeError(DecodeError):
    """An envelope breaks CloudEvents 1.0; the message names the attribute."""


class TooLargeError(MillstreamError):
    """An event is larger than the broker or the configuration accepts."""


# What carries


class BrokerError(MillstreamError):
    """The broker refused or failed."""


class PublishError(BrokerError):
    """Some events of a batch are not published; `results` has None for each that is durable, and the error of each that is not."""

    def __init__(self, results: Sequence[MillstreamError | None]) -> None:
        errors = [error for error in results if error is not None]
        super().__init__(f"{len(errors)} of {len(results)} events were not published; the first because: {errors[0]}")
        self.results = results


class BrokerUnavailableError(BrokerError):
    """The broker cannot be reached now; the same call may succeed later."""


class RegistryError(MillstreamError):
    """The schema registry refused or failed."""


class RegistryUnavailableError(RegistryError):
    """The schema registry cannot be reached now; the same call may succeed later."""


class PositionLostError(MillstreamError):
    """A group's position points to events the broker no longer has. Somebody must choose where to go on."""


class FencedError(MillstreamError):
    """Another worker has taken over; whatever this one still wanted to commit was refused."""


# What keeps


class StoreError(MillstreamError):
    """The store refused or failed."""

    in_transaction = False
    """Whether it was the Transaction of a handler; any other that a handler lets out is a failure of that handler."""


class StatementError(MillstreamError):
    """The service's own SQL was refused: a mistake in it, or a constraint of the service's tables. The store is well."""


class StoreBusyError(StoreError):
    """The store is locked by another writer; the same call may succeed later."""


class StoreFullError(StoreError):
    """The store has no room left; nothing of the failed unit of work was kept."""


class StoreReadOnlyError(StoreError):
    """The store can be read but not written."""


class StoreDamagedError(StoreError):
    """The store's file is damaged; restore a backup before anything is written to it."""


class StoreTooNewError(StoreError):
    """A newer Millstream wrote this store, and this one does not know its layout."""


class StoreMismatchError(StoreError):
    """The store belongs to another app, or was created with other settings."""


# What operators ask for


class NotFoundError(MillstreamError):
    """What was named is not there."""


class RefusedError(MillstreamError):
    """It would do harm as things are; the message says what to do first."""
