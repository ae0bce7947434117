"""Which servers a command of `tools.services` is about."""

import pytest
from tools.services.__main__ import chosen_of


@pytest.mark.parametrize(
    ("command", "names", "chosen"),
    [
        ("start", [], ["kafka", "rabbitmq", "aws", "nats", "redis", "postgres"]),
        ("run", [], ["kafka", "rabbitmq", "aws", "nats", "redis"]),
        ("run", ["postgres", "redis"], ["redis", "postgres"]),
    ],
)
def test_a_command_is_run_beside_the_brokers_unless_it_names_others(command: str, names: list[str], chosen: list[str]) -> None:
    """Nobody waits for a database that nothing asks for; `make services` starts it with the others."""
    assert [service.name for service in chosen_of(command, names)] == chosen
