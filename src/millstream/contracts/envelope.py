"""Envelope: the frozen value that travels."""

import msgspec


# gc=False: an envelope cannot be part of a reference cycle, and brokers hold many of them.
# omit_defaults: brokers and stores that encode one keep only what it says.
class Envelope(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One event on its way: CloudEvents 1.0 attributes around a body of bytes.

    Construction checks nothing, so that it stays cheap; `contracts.codec` checks
    everything that enters or leaves over a wire.
    """

    id: str
    """Unique within `source`; given by whoever published, never invented on receipt."""
    source: str
    """Who published: `/<app>`."""
    type: str
    """The contract's name."""
    key: str | None = None
    """Events of one key keep their order. On the wire: `subject` and `partitionkey`."""
    time: int
    """Microseconds since 1970, UTC; 0 where the publisher did not say."""
    data: bytes = b""
    """The body, byte for byte as it was published."""
    content_type: str = "application/json"
    """What `data` is. On the wire: `datacontenttype`."""
    schema: str | None = None
    """Where the body's schema is. On the wire: `dataschema`."""
    version: int = 1
    """The contract's version. On the wire: `contractversion`."""
    correlation: str | None = None
    """Shared by everything that one first event caused. On the wire: `correlationid`."""
    causation: str | None = None
    """The id of the event whose handling published this one. On the wire: `causationid`."""
    attempt: str | None = None
    """Which handling that was, as `group/attempt`. On the wire: `causationattempt`."""
    traceparent: str | None = None
    """W3C trace context."""
    tracestate: str | None = None
    """W3C trace context."""
    extensions: dict[str, str] | None = None
    """Every other CloudEvents extension, as text. Never changed after construction."""
    topic: str = ""
    """Where it is published. Not a CloudEvents attribute, and never on the wire."""
