"""Millstream: event-driven Python systems that you can see, replay and prove."""

from millstream.app.app import App, Router, UnitOfWork
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import MillstreamError
from millstream.contracts.message import command, event
from millstream.core.handler import Context, Depends
from millstream.core.retry import Retry
from millstream.core.store import Transaction

__all__ = ["App", "Context", "Depends", "Envelope", "MillstreamError", "Retry", "Router", "Transaction", "UnitOfWork", "command", "event"]
