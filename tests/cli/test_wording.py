"""Values for people: safe, short, and unknown is not zero."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.app.queries import Age
from millstream.cli import wording
from millstream.contracts.errors import ConfigurationError
from millstream.core.broker import Figure

NOW = 1_893_456_000_000_000


@given(st.text())
def test_no_control_character_of_any_text_reaches_the_terminal(text: str) -> None:
    """Event data cannot move the cursor, hide itself or turn its direction."""
    shown = wording.plain(text)

    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2066\u200b\u2028\ufeff" for c in shown)


def test_control_characters_are_shown_as_what_they_are() -> None:
    """A reader sees that something is there."""
    assert wording.plain("a\x1b[31m\n\x07\x9b\u202eb") == r"a\e[31m\n\x07\x9b\u{202e}b"
    assert wording.plain("żółw 龟 🐢") == "żółw 龟 🐢"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_json_document_keeps_its_meaning_and_loses_its_teeth(text: str) -> None:
    """Programs read the same value; a terminal that shows it does nothing."""
    safe = wording.safe_json(json.dumps({"t": text}, ensure_ascii=False))

    assert json.loads(safe) == {"t": text}
    assert safe == wording.plain(safe)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "—"),
        (0, "0 ms"),
        (0.0001, "<1 ms"),
        (0.0124, "12 ms"),
        (0.9996, "1.0 s"),
        (3.24, "3.2 s"),
        (59.96, "1 m"),
        (250, "4 m 10 s"),
        (7500, "2 h 5 m"),
        (3600, "1 h"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations_are_short(seconds: float | None, shown: str) -> None:
    """Two units at most."""
    assert wording.span(seconds) == shown


def test_unknown_zero_and_an_estimate_look_different() -> None:
    """Nobody mistakes one for another."""
    assert wording.figure(Figure(None, "unknown")) == "—"
    assert wording.figure(Figure(0)) == "0"
    assert wording.figure(Figure(12480, "estimated")) == "~12 480"
    assert wording.age(Age(None, "unknown")) == "—"
    assert wording.age(Age(2.0, "estimated")) == "~2.0 s"


@pytest.mark.parametrize(
    ("amount", "shown"), [(None, "—"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"), (1 << 50, "1024.0 TiB")]
)
def test_sizes_are_short(amount: int | None, shown: str) -> None:
    """The largest unit that leaves a digit in front."""
    assert wording.size(amount) == shown


@pytest.mark.parametrize(("width", "shown"), [(20, "0198c1de-4f2a"), (13, "0198c1de-4f2a"), (9, "0198…4f2a"), (3, "0…a"), (2, "01")])
def test_ids_keep_both_ends(width: int, shown: str) -> None:
    """The ends of a UUIDv7 tell it apart: the time, and the chance."""
    assert wording.shortened("0198c1de-4f2a", width) == shown


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("15m", NOW - 900_000_000),
        ("2h30m", NOW - 9_000_000_000),
        ("1.5s", NOW - 1_500_000),
        ("500ms", NOW - 500_000),
        ("1d", NOW - 86_400_000_000),
        ("2030-01-01T00:00:00Z", NOW),
        ("2030-01-01T01:00:00+01:00", NOW),
    ],
)
def test_moments_are_read_as_people_write_them(text: str, micros: int) -> None:
    """How long ago, or when."""
    assert wording.moment_of(text, NOW) == micros


@pytest.mark.parametrize("text", ["", "soon", "15", "15x", "m", "2030-13-01", "15m ago", "-5m"])
def test_what_is_no_moment_is_refused_with_examples(text: str) -> None:
    """Guessing a time would replay the wrong events."""
    with pytest.raises(ConfigurationError, match="such as 15m"):
        wording.moment_of(text, NOW)


def test_machines_get_exact_times() -> None:
    """RFC 3339, UTC, to the microsecond; nothing where nothing is known."""
    assert wording.iso(NOW + 123_456) == "2030-01-01T00:00:00.123456Z"
    assert wording.iso(None) is None
    assert wording.iso(0) is None
