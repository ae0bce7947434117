"""What a URL of Redis says, and positions as ids, without a server."""

import pytest

from millstream.brokers.redis_names import id_before, id_of, position_of
from millstream.brokers.redis_publisher import MOST, MOST_BYTES, Outgoing, pages
from millstream.brokers.redis_settings import settings_of
from millstream.contracts.errors import BrokerError, ConfigurationError
from millstream.core.broker import Partition


def test_a_url_says_where_who_and_what() -> None:
    """Server, database, user and options; the name has no secrets."""
    settings = settings_of("redis://al:p%40ss@one:6380/3?timeout=2&allow_loss=1", {})

    assert (settings.host, settings.port, settings.database) == ("one", 6380, 3)
    assert (settings.user, settings.password, settings.timeout, settings.allow_loss) == ("al", "p@ss", 2.0, True)
    assert settings.name == "redis://one:6380/3"
    assert "p@ss" not in repr(settings)


def test_what_is_not_said_comes_from_the_environment_or_is_usual() -> None:
    """Nobody, the usual port, the first database, and nothing may be lost."""
    bare = settings_of("redis://host", {})
    known = settings_of("rediss://host/", {"MILLSTREAM_REDIS_USER": "u", "MILLSTREAM_REDIS_PASSWORD": "p"})

    assert (bare.host, bare.port, bare.database, bare.user, bare.password, bare.tls) == ("host", 6379, 0, "", "", None)
    assert not bare.allow_loss
    assert (known.user, known.password) == ("u", "p")
    assert known.tls is not None


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://", "names no server"),
        ("redis://host:port", "Write HOST:PORT"),
        ("redis://one,two", "several are named"),
        ("redis://host/shop", "have numbers"),
        ("redis://host?timeouts=1", "Did you mean timeout"),
        ("redis://host?timeout=soon", "is no number"),
        ("redis://host?allow_loss=yes", "neither 0 nor 1"),
        ("redis://host?ca=x.pem", "rediss://"),
        ("rediss://host?ca=/nowhere/x.pem", "cannot be read"),
    ],
)
def test_a_url_that_cannot_be_kept_is_refused(url: str, told: str) -> None:
    """With what to write instead."""
    with pytest.raises(ConfigurationError, match=told):
        settings_of(url, {})


def test_positions_rise_as_ids_do() -> None:
    """Ids of ours first, then those of the clock; each position gives its id again."""
    ids = [b"0-1", b"0-2", b"0-1099511627775", b"1764113000000-0", b"1764113000000-1048575", b"1764113000001-0"]

    positions = [position_of(id_) for id_ in ids]

    assert positions == sorted(set(positions))
    assert [id_of(position).encode() for position in positions] == ids
    assert max(positions) < 1 << 63
    assert [id_before(position) for position in (0, 1, 2)] == ["0-0", "0-0", "0-1"]


@pytest.mark.parametrize("id_", [b"5-1", b"1764113000000-1048576"])
def test_an_id_that_has_no_place_is_refused(id_: bytes) -> None:
    """With what to use instead."""
    with pytest.raises(BrokerError, match=r"0-\*"):
        position_of(id_)


def test_many_and_large_events_are_cut_into_pages() -> None:
    """None is larger than one script takes, but for an event that is; nothing is left out."""
    here = Partition("t", 0)
    small, large = Outgoing(here, [], 100), Outgoing(here, [], 2 * MOST_BYTES)

    assert pages([]) == []
    assert pages([small] * (MOST + 1)) == [(0, MOST), (MOST, MOST + 1)]
    assert pages([small, large, small]) == [(0, 1), (1, 2), (2, 3)]
