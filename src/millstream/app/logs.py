"""Logs: lines for people or JSON for machines, each with the delivery it was written for."""

import logging
import sys
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from millstream.app.settings import Settings, masked_text
from millstream.app.work import IN_HAND
from millstream.core.broker import Delivery
from millstream.core.observe import Outcomes

#: What every LogRecord has; anything else in one was passed as `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

#: Which outcomes are worth a line.
LEVELS: dict[str, int] = {"retry": logging.WARNING, "parked": logging.ERROR, "discarded": logging.WARNING}
MOST_LINES = 20

log = logging.getLogger("millstream.deliveries")

_encode = msgspec.json.Encoder(enc_hook=repr).encode


def set_up(settings: Settings, *, stream: TextIO | None = None, always: Mapping[str, object] | None = None) -> None:
    """Send the logs of this process to stderr, in the form and from the level that the settings say.

    `always` is in every JSON line, such as which worker process this is. A program that
    embeds an App sets up logging by itself, and may use `JsonLines` there.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(always) if settings.log_format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())


def in_hand() -> dict[str, object]:
    """What the calling task or thread handles just now; empty outside of handlers.

    Of a batch, only what all of it has in common.
    """
    works = IN_HAND.get()
    if not works or works[0].handler is None:
        return {}
    handler, envelope = works[0].handler, works[0].envelope
    fields: dict[str, object] = {"group": handler.options.group, "handler": handler.name}
    if len(works) > 1:
        return {**fields, "deliveries": len(works)}
    if envelope is not None:
        fields |= {
            "event": envelope.id,
            "type": envelope.type,
            "key": envelope.key,
            "correlation": envelope.correlation or envelope.id,
            "attempt": works[0].attempt,
        }
    return fields


class Failures:
    """An `Observer` that writes a line for each delivery that failed, was parked or was discarded.

    Of one batch it writes a few, and how many there were: a flood of failures must not
    become a flood of lines.
    """

    def started(self, group: str, deliveries: Sequence[Delivery]) -> None:
        """Nothing is written about a beginning."""

    def settled(self, outcomes: Outcomes) -> None:
        failed = [outcome for outcome in outcomes if outcome.kind in LEVELS]
        for outcome in failed[:MOST_LINES]:
            envelope = outcome.envelope
            name = f"{envelope.type} {envelope.id}" if envelope is not None else f"{outcome.partition.topic} at {outcome.position}"
            log.log(
                LEVELS[outcome.kind],
                "%s: %s, attempt %d of group %s: %s", name, outcome.kind, outcome.attempt, outcome.group, outcome.error,
                extra={"event": envelope.id, "correlation": envelope.correlation or envelope.id} if envelope is not None else None,
            )  # fmt: skip
        if len(failed) > MOST_LINES:
            log.warning("%d more deliveries failed at the same time", len(failed) - MOST_LINES)


class JsonLines(logging.Formatter):
    """One JSON document a line: time, level, logger, message, the delivery in hand, and every `extra`."""

    def __init__(self, always: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._always = dict(always or {})

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": masked_text(record.getMessage()),
            **self._always,
            **in_hand(),
            **{name: value for name, value in vars(record).items() if name not in _OWN},
        }
        if record.exc_info and record.exc_info[0] is not None:
            kind, error, trace = record.exc_info
            fields["error"] = f"{kind.__name__}: {masked_text(str(error))}"
            fields["stack"] = masked_text("".join(traceback.format_exception(kind, error, trace)))
        return _encode(fields).decode()


class TextLines(logging.Formatter):
    """A line for people: time, level, logger and message; behind it the event in hand."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).astimezone()
        line = f"{moment:%H:%M:%S}.{int(record.msecs):03d} {record.levelname:<7} {record.name}: {record.getMessage()}"
        fields = in_hand()
        if fields:
            shown = [f"{name}={fields[name]}" for name in ("group", "type", "key", "event", "attempt") if fields.get(name)]
            line += f"  [{' '.join(shown)}]"
        # An event's text must not be able to write lines of its own.
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return masked_text(line)
