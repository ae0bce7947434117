"""Exit codes: what each failure tells the script that called `millstream`. They do not change."""

from enum import IntEnum

from millstream.contracts.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    ContractError,
    DecodeError,
    MillstreamError,
    NotFoundError,
    RefusedError,
    RegistryUnavailableError,
    StoreBusyError,
    StoreMismatchError,
    StoreReadOnlyError,
    UnknownContractError,
)


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    DENIED = 5
    REFUSED = 6
    INCOMPATIBLE = 7
    PARTIAL = 8
    CRITICAL = 9
    WARNING = 10
    STUCK = 70
    INTERRUPTED = 130


MEANING = {
    Exit.OK: "It worked.",
    Exit.FAILED: "The operation failed.",
    Exit.USAGE: "The command line, a setting or the data that was passed is wrong.",
    Exit.NOT_FOUND: "What was named is not there.",
    Exit.UNREACHABLE: "The broker, the store or the schema registry cannot be reached, or is locked; the same command may work later.",
    Exit.DENIED: "This user may not read or write there.",
    Exit.REFUSED: "It would do harm as things are: it needs `--yes`, or something must be stopped first.",
    Exit.INCOMPATIBLE: "A contract is not compatible.",
    Exit.PARTIAL: "Some of it worked; the JSON output lists what did not.",
    Exit.CRITICAL: "A check found something that has to be repaired.",
    Exit.WARNING: "A check found something that should be looked at.",
    Exit.STUCK: "A worker ended itself because a handler hung; run by `--workers` or a supervisor, it is replaced.",
    Exit.INTERRUPTED: "Ctrl-C.",
}

# The first class that fits decides, so the narrower ones stand first.
_CODES: tuple[tuple[type[BaseException], Exit], ...] = (
    (RefusedError, Exit.REFUSED),
    (NotFoundError, Exit.NOT_FOUND),
    (StoreReadOnlyError, Exit.DENIED),
    (PermissionError, Exit.DENIED),
    (BrokerUnavailableError, Exit.UNREACHABLE),
    (RegistryUnavailableError, Exit.UNREACHABLE),
    (StoreBusyError, Exit.UNREACHABLE),
    (TimeoutError, Exit.UNREACHABLE),
    (ConfigurationError, Exit.USAGE),
    (StoreMismatchError, Exit.USAGE),
    (ContractError, Exit.USAGE),
    (UnknownContractError, Exit.USAGE),
    (DecodeError, Exit.USAGE),
    (MillstreamError, Exit.FAILED),
)


def exit_of(error: BaseException) -> Exit:
    """The exit code that tells of this error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.FAILED)
