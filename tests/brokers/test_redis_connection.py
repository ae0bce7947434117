"""Being let in by a Redis server that asks for certificates and a password: one of the test's own."""

from collections.abc import Iterator

import pytest
from tests.brokers.certificates import Authority
from tests.brokers.redis_server import redis_url
from tests.brokers.words import works
from tools.services.redis import RedisServer
from tools.services.service import lasting_port

from millstream.brokers.redis import RedisBroker
from millstream.contracts.errors import BrokerUnavailableError, ConfigurationError, MillstreamError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

SECRET = "it%27s%3A%20a%2Fsecret"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Authority]]:
    """A port that takes TLS from whoever has a certificate of an authority, and wants a password."""
    redis_url()
    authority, port = Authority(tmp_path_factory.mktemp("authority")), lasting_port()
    server = RedisServer(tmp_path_factory.mktemp("guarded"))
    try:
        server.start(
            f"tls-port {port}\ntls-cert-file {authority.certificate('server')}\ntls-key-file {authority.key('server')}\n"
            f"tls-ca-cert-file {authority.certificate('ca')}\ntls-auth-clients yes\n"
            'user default off\nuser ann on ">it\'s: a/secret" ~* &* +@all\n'
        )
        yield port, authority
    finally:
        server.stop(kill=True)


async def test_events_go_over_tls_to_whoever_has_a_certificate_and_the_password(guarded: tuple[int, Authority]) -> None:
    """Publishing, receiving and broadcasts; the password may have any characters, and is told to nobody."""
    port, authority = guarded
    async with RedisBroker(f"rediss://ann:{SECRET}@127.0.0.1:{port}?{authority.options}") as broker:
        await works(broker)
        assert "secret" not in broker.name


@pytest.mark.parametrize(
    ("user", "options", "error", "told"),
    [
        (f"ann:{SECRET}@", "", BrokerUnavailableError, "certificate"),
        (f"ann:{SECRET}@", "ca={ca}", BrokerUnavailableError, "(?i)certificate|closed"),
        ("ann:wrong@", "{all}", ConfigurationError, "(?i)password"),
        ("", "{all}", ConfigurationError, "(?i)password"),
    ],
    ids=["unknown authority", "no certificate", "wrong password", "no password"],
)
async def test_who_is_not_let_in_is_told_why(
    guarded: tuple[int, Authority], user: str, options: str, error: type[MillstreamError], told: str
) -> None:
    """At once, and with what to look at."""
    port, authority = guarded
    asked = options.format(ca=authority.certificate("ca"), all=authority.options)
    with pytest.raises(error, match=told):
        async with RedisBroker(f"rediss://{user}127.0.0.1:{port}?{asked}"):
            pass
