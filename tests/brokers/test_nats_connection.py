"""Being let in by a NATS server that asks for certificates, or for credentials that an operator has signed: servers of the test's own."""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import nkeys
import pytest
from tests.brokers.certificates import Authority
from tests.brokers.nats_server import nats_url
from tests.brokers.words import works
from tools.services.nats import NatsServer

from millstream.brokers.nats import NatsBroker
from millstream.contracts.errors import ConfigurationError, MillstreamError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


async def is_let_in(url: str) -> None:
    """Events go there and come back."""
    async with NatsBroker(url) as broker:
        await works(broker)


async def test_a_server_that_asks_for_a_certificate_gets_it(tmp_path: Path) -> None:
    """And lets nobody in without."""
    nats_url()
    authority = Authority(tmp_path)
    server = NatsServer(tmp_path / "server")
    try:
        server.start(
            f"tls {{ cert_file: '{authority.certificate('server')}', key_file: '{authority.key('server')}', "
            f"ca_file: '{authority.certificate('ca')}', verify: true }}\n"
        )
        await is_let_in(f"nats://127.0.0.1:{server.port}?{authority.options}")
        with pytest.raises(MillstreamError, match=r"(?i)certificate|closed|gone|reached"):
            await is_let_in(f"nats://127.0.0.1:{server.port}?ca={authority.certificate('ca')}")
    finally:
        server.stop(kill=True)


class Identity:
    """A key pair of NATS, and the claims that another one signs of it."""

    def __init__(self, kind: int) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), kind)
        self.pair = nkeys.from_seed(self.seed)
        self.name = self.pair.public_key.decode()

    def signed(self, by: "Identity", kind: str, **claims: Any) -> str:
        """A JWT that says who this is."""
        body: dict[str, Any] = {"iss": by.name, "sub": self.name, "name": kind, "iat": 1, "nats": {"type": kind, "version": 2, **claims}}
        body["jti"] = base64.b32encode(hashlib.new("sha512_256", json.dumps(body).encode()).digest()).decode().rstrip("=")
        parts = [{"typ": "JWT", "alg": "ed25519-nkey"}, body]
        text = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
        return b".".join([text, base64.urlsafe_b64encode(by.pair.sign(text)).rstrip(b"=")]).decode()


async def test_credentials_that_an_operator_has_signed_let_in(tmp_path: Path) -> None:
    """A file as the tools of NATS write it; one of a stranger, who has signed his own, does not."""
    nats_url()
    operator, user = Identity(nkeys.PREFIX_BYTE_OPERATOR), Identity(nkeys.PREFIX_BYTE_USER)
    account, system, stranger = (Identity(nkeys.PREFIX_BYTE_ACCOUNT) for _ in range(3))
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage", "streams"), -1)
    of_account = account.signed(operator, "account", limits={**limits, "consumer": -1, "wildcards": True})
    of_system = system.signed(operator, "account", limits={**limits, "mem_storage": 0, "disk_storage": 0, "wildcards": True})
    for name, by in (("ann", account), ("stranger", stranger)):
        jwt = user.signed(by, "user", pub={}, sub={}, subs=-1, data=-1, payload=-1)
        (tmp_path / f"{name}.creds").write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )
    (tmp_path / "operator.jwt").write_text(operator.signed(operator, "operator"))
    server = NatsServer(tmp_path / "server")
    try:
        server.start(
            f"operator: '{tmp_path / 'operator.jwt'}'\nsystem_account: {system.name}\nresolver: MEMORY\n"
            f"resolver_preload: {{\n  {account.name}: {of_account}\n  {system.name}: {of_system}\n}}\n"
        )
        await is_let_in(f"nats://127.0.0.1:{server.port}?creds={tmp_path / 'ann.creds'}")
        with pytest.raises(ConfigurationError, match=r"lets nobody in.*creds="):
            await is_let_in(f"nats://127.0.0.1:{server.port}?creds={tmp_path / 'stranger.creds'}")
        with pytest.raises(ConfigurationError, match="lets nobody in"):
            await is_let_in(f"nats://127.0.0.1:{server.port}")
    finally:
        server.stop(kill=True)
