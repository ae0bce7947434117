"""compose.yaml offers what `make services` starts: neither can get ahead of the other."""

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from tools.services.__main__ import SERVICES
from tools.services.aws import MINISTACK, MOTO

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "compose.yaml").read_text(encoding="utf-8")
EXPORT = re.compile(r"""^export (MILLSTREAM_TEST_\w+)=(['"])(.+)\2$""", re.MULTILINE)


def containers() -> dict[str, str]:
    """What compose.yaml says of each service."""
    services = COMPOSE.partition("\nservices:\n")[2].partition("\nconfigs:\n")[0]
    parts = re.split(r"^  ([\w-]+):\n", services, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def published() -> dict[str, list[str]]:
    """The addresses of this machine that each service is reached at."""
    lines = {name: "".join(re.findall(r"^    ports: .+$", said, re.MULTILINE)) for name, said in containers().items()}
    return {name: re.findall(r'"([\d.]*:?\d+):\d+"', line) for name, line in lines.items()}


def address(url: str) -> str:
    """Where a URL leads."""
    parts = urlsplit(dict(parse_qsl(urlsplit(url).query)).get("endpoint", url))
    return f"127.0.0.1:{parts.port}"


def form(url: str) -> tuple[str, list[str]]:
    """What is the same of two URLs for the same thing."""
    parts = urlsplit(url)
    return parts.scheme, [name for name, _ in parse_qsl(parts.query)]


@pytest.fixture
def native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What `make services` prints where it has never run."""
    for service in SERVICES:
        monkeypatch.setattr(f"{service.__module__}.HOME", tmp_path)
    return {name: url for service in SERVICES for name, url in service().env().items()}


@pytest.fixture
def documented() -> dict[str, str]:
    """What `source compose.env` sets."""
    return {name: url for name, _, url in EXPORT.findall((ROOT / "compose.env").read_text(encoding="utf-8"))}


def test_both_set_the_same_variables_to_urls_of_the_same_form(native: dict[str, str], documented: dict[str, str]) -> None:
    """Whoever has Docker runs every test that a server of `make services` is enough for, but those of one listener of Kafka.

    It asks for certificates, and Kafka's image has no program that would write a client's key as a file.
    """
    offered = {name: form(url) for name, url in native.items() if name != "MILLSTREAM_TEST_KAFKA_MUTUAL"}
    assert {name: form(url) for name, url in documented.items()} == offered


def test_every_url_leads_to_a_container_and_every_container_has_a_url(documented: dict[str, str]) -> None:
    """All of them listen on loopback alone."""
    listening = [each for addresses in published().values() for each in addresses]

    assert sorted(map(address, documented.values())) == sorted(listening)


def test_both_can_run_at_once(native: dict[str, str], documented: dict[str, str]) -> None:
    """A test that kills a server of `make services` takes none of these for one."""
    assert set(map(address, native.values())) & set(map(address, documented.values())) == set()


def test_every_container_says_when_it_is_ready() -> None:
    """`docker compose up --wait` returns when the tests can begin; what makes the certificate just ends."""
    assert [name for name, said in containers().items() if "healthcheck:" not in said] == ["kafka-certificate"]


def test_the_versions_are_those_of_make_services() -> None:
    """Where a version is named at all, it is the same one."""

    def of(pom: str, artifact: str) -> str:
        said = (ROOT / "tools" / "services" / pom).read_text(encoding="utf-8")
        found = re.search(rf"<artifactId>{artifact}</artifactId>\s*<version>(.+?)</version>", said)
        assert found is not None
        return found[1]

    images = dict(re.findall(r"^    image: (\S+):(\S+)$", COMPOSE, re.MULTILINE))
    assert {name: images[name] for name in images if images[name].count(".") == 2} == {
        "apache/kafka": of("kafka.pom.xml", "kafka_2.13"),
        "ministackorg/ministack": MINISTACK.partition("==")[2],
        "motoserver/moto": MOTO.partition("==")[2],
        "softwaremill/elasticmq-native": of("elasticmq.pom.xml", "elasticmq-server_2.13"),
    }
