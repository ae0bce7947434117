"""Millstream: event-driven Python systems that you can see, replay and prove."""

from millstream.app.app import App, Router
from millstream.app.unit_of_work import UnitOfWork
from millstream.contracts import errors
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import MillstreamError
from millstream.contracts.message import command, event
from millstream.core.broker import Topic
from millstream.core.handler import Context, Depends
from millstream.core.observe import Observer, Outcome, Outcomes
from millstream.core.retry import Retry
from millstream.core.store import Transaction

__all__ = [
    "App",
    "Context",
    "Depends",
    "Envelope",
    "MillstreamError",
    "Observer",
    "Outcome",
    "Outcomes",
    "Retry",
    "Router",
    "Topic",
    "Transaction",
    "UnitOfWork",
    "command",
    "errors",
    "event",
]
