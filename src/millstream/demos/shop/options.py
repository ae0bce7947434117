"""What the user of the demo chose, and what each service process is told."""

import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Self

from millstream.contracts.errors import ConfigurationError

SETTINGS = "MILLSTREAM_SHOP"
SERVICES = ("storefront", "inventory", "mailer", "analytics", "catcher")
#: Who handles events, and what the groups are called.
GROUPS = ("storefront.follow_order", "inventory.reserve_stock", "mailer.confirm", "analytics.project")
MUTATIONS = ("no_outbox", "no_inbox", "ack_before_handle")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The flags of `millstream demo shop`.

    Raises `ConfigurationError` for what the shop cannot do.
    """

    rate: float | None = None
    """Orders a second by themselves; 0 for none. 5 in the demo and 25 in the proof unless said."""
    forever: bool = False
    """Keep running without a terminal too, until stopped."""
    seconds: float | None = None
    """How long customers come before the proof; 60 without a terminal, 20 with `prove`, without end at a terminal."""
    seed: int = 1
    """Where all chance of the traffic and of the faults comes from."""
    naive: bool = False
    """Publish after the commit, without inbox and outbox, as services often do."""
    output: str = "text"
    """`text` for people, `json` for machines: one line when it is ready, one with the proof."""
    data: str | None = None
    """The folder for databases, mails and logs, kept afterwards; a temporary one unless said."""
    smtp: str | None = None
    """`HOST:PORT` of another mail server, instead of the demo's own with its inbox page."""
    prove: bool = False
    """Run under faults without anybody watching, and prove what came of it."""
    mutate: str | None = None
    """Run without one of the protections, to see that the proof notices; one of `MUTATIONS`."""
    orders: int = 0
    """Orders to place once it is ready, beside those that come by themselves."""
    duplicates: int = 0
    """Events to publish a second time, under the ids they have, once there are so many."""
    kill: tuple[str, ...] = ()
    """Services to `kill -9` once it is ready; each is started again."""
    poison: int = 0
    """Events that break their contract to publish once it is ready."""
    open: bool = False
    """Show the shop in the user's browser once it is ready."""
    broker: str | None = None
    """URL of the broker; the embedded one, in a file of the shop's, unless said."""

    def __post_init__(self) -> None:
        if self.output not in ("text", "json"):
            raise ConfigurationError(f"There is no output {self.output!r}; choose text or json.")
        if self.mutate is not None and self.mutate not in MUTATIONS:
            raise ConfigurationError(f"There is no mutation {self.mutate!r}; choose one of {', '.join(MUTATIONS)}.")
        if self.naive and self.mutate is not None:
            raise ConfigurationError("naive mode has no protection that a mutation could take away; choose one of the two.")
        for name in ("rate", "seconds", "orders", "duplicates", "poison"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigurationError(f"{name} is {value}; give a number from 0 on.")
        for name in self.kill:
            if name not in self.services:
                raise ConfigurationError(f"There is no service {name!r} to kill; choose one of {', '.join(self.services)}.")
        if self.broker is not None and self.broker.startswith(("sqlite:", "memory:")):
            raise ConfigurationError(f"{self.broker} cannot be shared by the shop: leave --broker out, and it has a file of its own.")
        if self.smtp is not None and not re.fullmatch(r".+:\d{1,5}", self.smtp):
            raise ConfigurationError(f"{self.smtp!r} is no mail server; give HOST:PORT, such as 127.0.0.1:1025.")

    @property
    def services(self) -> tuple[str, ...]:
        """The processes of this shop."""
        return SERVICES if self.smtp is None else tuple(name for name in SERVICES if name != "catcher")

    @property
    def mode(self) -> str:
        """What the proof calls this run."""
        return "naive" if self.naive else f"mutation {self.mutate}" if self.mutate else "protected"


@dataclass(frozen=True, slots=True)
class Protections:
    """Which guarantees are on. All are, except in naive mode and in a mutation."""

    outbox: bool = True
    inbox: bool = True
    handle_before_ack: bool = True

    @classmethod
    def chosen(cls, *, naive: bool, mutation: str | None) -> Self:
        return cls(
            outbox=not naive and mutation != "no_outbox",
            inbox=not naive and mutation != "no_inbox",
            handle_before_ack=mutation != "ack_before_handle",
        )

    @property
    def all_on(self) -> bool:
        """Whether handlers run as the framework runs them."""
        return self.outbox and self.inbox and self.handle_before_ack


@dataclass(frozen=True, slots=True)
class Settings:
    """What one service process needs to know; travels as JSON in its environment."""

    data: str
    shop_port: int = 8300
    mail_port: int = 8301
    dashboard_port: int = 8302
    smtp: str = "127.0.0.1:8325"
    own_mail: bool = True
    """Whether `smtp` is the demo's own server, with an inbox page."""
    naive: bool = False
    mutation: str | None = None
    seed: int = 1
    crash: dict[str, float] = field(default_factory=dict[str, float])
    listening: dict[str, int] = field(default_factory=dict[str, int])
    """Descriptors of the listening sockets that a service inherits."""
    broker: str = ""
    """URL of a broker that may have other users; the shop's own file when it is empty."""
    run: str = ""
    """What tells this shop's groups from another's on the same broker."""

    @property
    def folder(self) -> Path:
        return Path(self.data)

    @property
    def protections(self) -> Protections:
        return Protections.chosen(naive=self.naive, mutation=self.mutation)

    @property
    def broker_url(self) -> str:
        return self.broker or f"sqlite:///{self.folder / 'broker.db'}"

    @property
    def start(self) -> Literal["earliest", "latest"]:
        """Where the shop's groups start: elsewhere than in a file of its own, what is there already is not the shop's."""
        return "latest" if self.broker else "earliest"

    def group(self, name: str) -> str:
        """What one of `GROUPS` is called in this shop."""
        return f"{name}{self.run}"

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
