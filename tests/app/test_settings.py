"""Settings come from four places, and always say which."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.app.settings import FIELDS, Address, http_address, masked, masked_text, resolve
from millstream.contracts.errors import ConfigurationError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a project file."""
    (tmp_path / "pyproject.toml").write_text('[tool.millstream]\nbroker = "sqlite:///p.db"\nworkers = 2\nlog-format = "json"\n')
    return tmp_path


def test_a_flag_beats_the_environment_beats_the_code_beats_the_project_beats_the_default(project: Path) -> None:
    """Each place wins over those below it, and the origin names it."""
    flag, code, environment = {"broker": "sqlite:///f.db"}, {"broker": "sqlite:///c.db"}, {"MILLSTREAM_BROKER": "sqlite:///e.db"}

    all_ = resolve(flag=flag, code=code, environment=environment, folder=project)
    without_flag = resolve(code=code, environment=environment, folder=project)
    without_environment = resolve(code=code, environment={}, folder=project)
    only_project = resolve(environment={}, folder=project)
    nothing = resolve(environment={}, folder=Path("/"))

    assert (all_.broker, all_.origin("broker")) == ("sqlite:///f.db", "--broker")
    assert (without_flag.broker, without_flag.origin("broker")) == ("sqlite:///e.db", "the environment's MILLSTREAM_BROKER")
    assert (without_environment.broker, without_environment.origin("broker")) == ("sqlite:///c.db", "App(broker=...)")
    assert (only_project.workers, only_project.log_format) == (2, "json")
    assert only_project.origin("broker") == f"{project}/pyproject.toml [tool.millstream]"
    assert (nothing.broker, nothing.origin("broker"), nothing.workers) == ("sqlite:///millstream.db", "default", 1)


def test_a_relative_file_in_a_project_is_the_projects_own(project: Path) -> None:
    """The same file is meant whatever folder below the project a command is called from."""
    below = project / "src" / "deep"
    below.mkdir(parents=True)

    settings = resolve(environment={}, folder=below)

    assert settings.broker == f"sqlite:///{project}/p.db"


def test_the_store_is_the_brokers_file_unless_it_is_named() -> None:
    """One URL is enough for a single service; a broker that cannot store leaves the default."""
    one = resolve(flag={"broker": "sqlite:///b.db"}, environment={}, folder=Path("/"))
    two = resolve(flag={"broker": "sqlite:///b.db", "store": "sqlite:///s.db"}, environment={}, folder=Path("/"))
    foreign = resolve(flag={"broker": "kafka://h:9092"}, environment={}, folder=Path("/"))

    assert (one.store, one.origin("store")) == ("sqlite:///b.db", "the broker's, from --broker")
    assert (two.store, two.origin("store")) == ("sqlite:///s.db", "--store")
    assert (foreign.store, foreign.origin("store")) == ("sqlite:///millstream.db", "default")


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("MILLSTREAM_WORKERS", "many", "workers is 'many', from the environment's MILLSTREAM_WORKERS: that cannot be used. Write a whole"),
        ("MILLSTREAM_WORKERS", "0", "Write a whole number from 1"),
        ("MILLSTREAM_BROKER", "shop.db", "Write a URL, such as sqlite:///shop.db"),
        ("MILLSTREAM_LOG_FORMAT", "xml", "Write text or json"),
        ("MILLSTREAM_APP", "no colon", "Write MODULE:APP"),
        ("MILLSTREAM_HTTP", "somewhere", "that is no address"),
        ("MILLSTREAM_GRACE", "-1", "Write a number of seconds"),
    ],
)
def test_a_wrong_value_names_the_field_where_it_stands_and_the_fix(variable: str, value: str, says: str) -> None:
    """The error alone is enough to repair it."""
    with pytest.raises(ConfigurationError, match=variable) as caught:
        resolve(environment={variable: value}, folder=Path("/"))

    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[tool.millstream]\nbrokre = "sqlite:///x.db"\n', "Did you mean broker?"),
        ("[tool.millstream]\nzzz = 1\n", "There are: broker, store"),
        ("[tool.millstream]\nworkers = true\n", "Write a whole number"),
        ("[tool\n", "cannot be read"),
        ("[tool]\nmillstream = 3\n", "is not a table"),
    ],
)
def test_a_wrong_project_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    """A typing error in the project file does not pass silently."""
    (tmp_path / "pyproject.toml").write_text(text)

    with pytest.raises(ConfigurationError, match=r"pyproject\.toml") as caught:
        resolve(environment={}, folder=tmp_path)

    assert says in str(caught.value)


def test_an_empty_variable_says_nothing() -> None:
    """Deployments set variables to nothing when they mean the default."""
    assert resolve(environment={"MILLSTREAM_BROKER": ""}, folder=Path("/")).origin("broker") == "default"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("kafka://me:s3cret@h1:9092,h2:9092", "kafka://me:***@h1:9092,h2:9092"),
        ("amqp://me:p@ss/w:rd@host/vhost", "amqp://me:***@host/vhost"),
        ("nats://t0ken@host", "nats://***@host"),
        ("redis://:s3cret@host/0", "redis://:***@host/0"),
        ("aws://eu-1?secret_key=abc&endpoint=http://u:p@h", "aws://eu-1?secret_key=***&endpoint=http://u:***@h"),
        ("sqlite:////data/a@b:c.db", "sqlite:////data/a@b:c.db"),
        ("memory://", "memory://"),
        ("no url", "no url"),
    ],
)
def test_secrets_of_a_url_are_masked(url: str, shown: str) -> None:
    """What identifies the place stays, what opens it goes."""
    assert masked(url) == shown


@given(st.text(st.characters(exclude_characters="?&"), min_size=12))
def test_no_password_survives_masking(password: str) -> None:
    """Whatever is between user and host, none of it is shown."""
    assert masked(f"amqp://user:{password}@host/x") == "amqp://user:***@host/x"


def test_urls_inside_messages_and_settings_are_masked() -> None:
    """Errors of client libraries quote URLs; settings are printed in tracebacks."""
    settings = resolve(flag={"broker": "amqp://me:s3cret@h"}, environment={}, folder=Path("/"))

    assert masked_text("cannot reach 'amqp://me:s3cret@h/x', try again") == "cannot reach 'amqp://me:***@h/x', try again"
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in str(settings.shown())


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80), True),
        ("9464", Address("127.0.0.1", 9464), True),
        (":9464", Address("127.0.0.1", 9464), True),
        ("[::1]:80", Address("::1", 80), True),
        ("0.0.0.0:80", Address("0.0.0.0", 80), False),
    ],
)
def test_a_port_alone_listens_to_this_machine_only(text: str, address: Address, *, loopback: bool) -> None:
    """Nothing is opened to the network unless it is written down."""
    assert http_address(text) == address
    assert http_address(text).is_loopback is loopback
    assert http_address(str(address)) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "host:99999", "::1:80", "host:-1", "host:８０"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """A port that cannot be is found before anything starts."""
    with pytest.raises(ConfigurationError, match="that is no address"):
        http_address(text)


def test_every_setting_is_documented(request: pytest.FixtureRequest) -> None:
    """The reference page has a row for each, with its variable and what it means."""
    text = (Path(request.config.rootpath) / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")

    for name, field in FIELDS.items():
        flag = name.replace("_", "-")
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{flag}` |")]
        assert f" | `MILLSTREAM_{name.upper()}` | " in row
        assert f" | {field.means}" in row
