"""How values are written for people: safe in a terminal, short, and unknown never looks like zero."""

import re
from datetime import UTC, datetime, timedelta

from millstream.app.queries import Age
from millstream.contracts.errors import ConfigurationError
from millstream.core.broker import Figure

UNKNOWN = "—"

# Everything that could move the cursor, hide text or turn its direction: C0 and C1 controls,
# bidirectional marks, line and paragraph separators, zero-width characters, lone surrogates, tags.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def plain(text: str) -> str:
    """Text whose control characters are written out, so that event data cannot command a terminal."""
    return _UNSAFE.sub(_escaped, text)


def plain_lines(text: str) -> str:
    """The same for text that has lines of its own, such as a stack trace."""
    return "\n".join(plain(line.expandtabs()) for line in text.splitlines())


def safe_json(text: str) -> str:
    """A JSON document with the same meaning whose strings cannot command a terminal.

    JSON has control characters only inside strings, once line breaks between values are
    gone; there `\\u` escapes mean the same.
    """
    return _UNSAFE.sub(lambda found: _utf16(found.group()), text)


def shortened(text: str, width: int) -> str:
    """At most `width` characters, cut in the middle: both ends tell ids apart."""
    if len(text) <= width:
        return text
    if width < 3:
        return text[:width]
    head = width // 2
    return f"{text[:head]}…{text[len(text) - (width - head - 1) :]}"


def span(seconds: float | None) -> str:
    """How long: `812 ms`, `3.2 s`, `4 m 10 s`, `2 h 5 m`, `3 d 4 h`."""
    if seconds is None:
        return UNKNOWN
    if seconds < 0.0005:
        return "0 ms" if seconds == 0 else "<1 ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def age(value: Age) -> str:
    """How long something has waited; an estimate is marked."""
    return ("~" if value.quality == "estimated" else "") + span(value.seconds)


def figure(value: Figure) -> str:
    """A number with groups of three; an estimate is marked."""
    return UNKNOWN if value.value is None else ("~" if value.quality == "estimated" else "") + number(value.value)


def number(value: int | None) -> str:
    """A whole number with groups of three."""
    return UNKNOWN if value is None else f"{value:,}".replace(",", " ")


def size(amount: int | None) -> str:
    """Bytes, in the largest unit that leaves a digit in front."""
    if amount is None:
        return UNKNOWN
    scaled = float(amount)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if scaled < 1024:
            return f"{scaled:.0f} {unit}" if unit == "B" else f"{scaled:.1f} {unit}"
        scaled /= 1024
    return f"{scaled:.1f} TiB"


def clock_time(micros: int) -> str:
    """The time of day on this machine, to the millisecond; with the day when that is another one."""
    if not micros:
        return UNKNOWN
    local = datetime.fromtimestamp(micros / 1e6, UTC).astimezone()
    text = local.strftime("%H:%M:%S.") + f"{micros // 1000 % 1000:03d}"
    return text if local.date() == datetime.now(UTC).astimezone().date() else f"{local:%Y-%m-%d} {text}"


def iso(micros: int | None) -> str | None:
    """A moment as machines read it: RFC 3339, UTC, microseconds."""
    if not micros:
        return None
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def moment_of(text: str, now: int) -> int:
    """Microseconds of a moment that somebody wrote: `15m`, `2h30m` (ago), or a date and time.

    Raises `ConfigurationError` for anything else. A time without a zone is this machine's.
    """
    spans = _SPAN.findall(text)
    if spans and "".join(amount + unit for amount, unit in spans) == text:
        return now - int(sum(float(amount) * _SECONDS[unit] for amount, unit in spans) * 1e6)
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{text!r} is no moment. Write how long ago, such as 15m or 2h30m, or a time, such as 2026-01-31T12:00 or 2026-01-31T12:00:00Z."
        ) from None
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found.group())
    if (short := {9: "\\t", 10: "\\n", 13: "\\r", 27: "\\e"}.get(code)) is not None:
        return short
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{{{code:x}}}"


def _utf16(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
