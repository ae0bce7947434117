"""What the user of the demo chose, and what each service process is told."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

SETTINGS = "MILLSTREAM_SHOP"
MUTATIONS = ("no_outbox", "no_inbox", "ack_before_handle")


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The flags of `millstream demo shop`."""

    rate: float | None = None
    forever: bool = False
    seconds: float | None = None
    seed: int = 1
    naive: bool = False
    output: str = "text"
    data: str | None = None
    smtp: str | None = None
    prove: bool = False
    mutate: str | None = None


@dataclass(frozen=True, slots=True)
class Protections:
    """Which guarantees are on. All are, except in naive mode and in a mutation."""

    outbox: bool = True
    inbox: bool = True
    handle_before_ack: bool = True

    @classmethod
    def chosen(cls, *, naive: bool, mutation: str | None) -> Self:
        if mutation is not None and mutation not in MUTATIONS:
            raise ValueError(f"There is no mutation {mutation!r}; choose one of {', '.join(MUTATIONS)}.")
        return cls(
            outbox=not naive and mutation != "no_outbox",
            inbox=not naive and mutation != "no_inbox",
            handle_before_ack=mutation != "ack_before_handle",
        )

    @property
    def handlers_protected(self) -> bool:
        return self.outbox and self.inbox and self.handle_before_ack


@dataclass(frozen=True, slots=True)
class Settings:
    """What one service process needs to know; travels as JSON in its environment."""

    data: str
    shop_port: int = 8300
    mail_port: int = 8301
    dashboard_port: int = 8302
    smtp: str = "127.0.0.1:8325"
    naive: bool = False
    mutation: str | None = None
    seed: int = 1
    crash: dict[str, float] = field(default_factory=dict)
    listening: dict[str, int] = field(default_factory=dict)
    """Descriptors of the listening sockets that a service inherits."""

    @property
    def folder(self) -> Path:
        return Path(self.data)

    @property
    def protections(self) -> Protections:
        return Protections.chosen(naive=self.naive, mutation=self.mutation)

    @property
    def broker_url(self) -> str:
        return f"sqlite:///{self.folder / 'broker.db'}"

    def database(self, service: str) -> Path:
        """The service's own database: its store, and the tables of its business."""
        return self.folder / f"{service}.db"

    def store_url(self, service: str) -> str:
        return f"sqlite:///{self.database(service)}"

    def to_environment(self) -> dict[str, str]:
        return {SETTINGS: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> Self:
        try:
            return cls(**json.loads(os.environ[SETTINGS]))
        except KeyError:
            raise SystemExit(
                f"{SETTINGS} is not set: services are started by `millstream demo shop`, not by hand."
            ) from None
