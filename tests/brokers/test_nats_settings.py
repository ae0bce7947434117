"""What `nats://` URLs say, and what in them is refused."""

from base64 import urlsafe_b64decode
from pathlib import Path

import nkeys
import pytest

from millstream.brokers.nats_connection import _signed
from millstream.brokers.nats_names import bare_subject_of, escaped
from millstream.brokers.nats_settings import settings_of
from millstream.contracts.errors import ConfigurationError


def test_a_url_names_servers_and_who_we_are() -> None:
    """Several servers, the usual port, a user; and nothing of it that is secret in the name."""
    settings = settings_of("nats://ann:s%40fe@n1,n2:4333?timeout=5&replicas=3", {})

    assert settings.servers == (("n1", 4222), ("n2", 4333))
    assert (settings.user, settings.password, settings.token) == ("ann", "s@fe", "")
    assert (settings.timeout, settings.replicas, settings.tls) == (5, 3, None)
    assert settings.name == "nats://n1,n2:4333"
    assert "s@fe" not in repr(settings)


def test_secrets_may_come_from_the_environment() -> None:
    """A token in the URL stands alone before the @, as in every client of NATS."""
    assert settings_of("nats://t%2Fk@n1", {}).token == "t/k"
    assert settings_of("nats://n1", {"MILLSTREAM_NATS_TOKEN": "t"}).token == "t"
    given = settings_of("nats://n1", {"MILLSTREAM_NATS_USER": "ann", "MILLSTREAM_NATS_PASSWORD": "p"})
    assert (given.user, given.password) == ("ann", "p")


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("nats://", "names no server"),
        ("nats://n1,,n2", "names no server"),
        ("nats://n1:port", "is no server"),
        ("nats://n1/vhost", "no '/vhost' to choose"),
        ("nats://n1?timout=3", "Did you mean timeout"),
        ("nats://n1?timeout=0", "no number from"),
        ("nats://n1?timeout=500", "no number from"),
        ("nats://n1?replicas=many", "no number from"),
        ("nats://n1?ca=/nowhere.pem", "cannot be read"),
        ("nats://n1?tls=yes", "neither 0 nor 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(url: str, error: str) -> None:
    """With what to write instead."""
    with pytest.raises(ConfigurationError, match=error):
        settings_of(url, {})


def test_a_credentials_file_signs_what_the_server_asks(tmp_path: Path) -> None:
    """As the tools of NATS write it: the JWT as it is, and the nonce signed with the seed."""
    seed = b"SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU"
    file = tmp_path / "ann.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\nthe.jwt\n------END NATS USER JWT------\n\n****** IMPORTANT ******\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
    )

    said = _signed(settings_of(f"nats://n1?creds={file}", {}), "nonce")

    assert said["jwt"] == "the.jwt"
    nkeys.from_seed(seed).verify(b"nonce", urlsafe_b64decode(said["sig"] + "=="))
    file.write_text("nothing")
    with pytest.raises(ConfigurationError, match="holds no credentials"):
        _signed(settings_of(f"nats://n1?creds={file}", {}), "nonce")


def test_names_stay_apart() -> None:
    """Whatever two names differ in, they differ in as streams and keys; usual ones can be read."""
    names = ["order.created", "order-created", "order_created", "order=2Dcreated", "Order.created", "größe", "a/b", "a b", "a:b", "*", ">"]

    assert escaped("order.created") == "order-created"
    assert len({escaped(name) for name in names}) == len(names)
    assert [bare_subject_of(name) for name in ("a.b", "größe", "a/b", "a b", "a..b", ".a", "a.*", "a.>", "")] == [
        "a.b", "größe", "a/b", None, None, None, None, None, None,
    ]  # fmt: skip
