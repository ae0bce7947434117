"""`millstream demo`: example systems in processes of their own."""

import importlib
from typing import Annotated, Literal

from cyclopts import App, Parameter

from millstream.cli.flags import flag

app = App(name="demo", help="Run an example system, and prove that it loses nothing.", help_format="plaintext")


@app.command
def shop(
    *,
    rate: Annotated[float | None, Parameter(help="Orders a second that customers place.")] = None,
    forever: Annotated[bool, flag("Go on until Ctrl-C; without a terminal it ends after 60 s otherwise.")] = False,
    seconds: Annotated[float | None, Parameter(help="How long customers come.")] = None,
    seed: Annotated[int, Parameter(help="What chance follows from: the same seed, the same faults.")] = 1,
    prove: Annotated[bool, flag("Kill services, repeat and poison events; then audit what came of it.")] = False,
    naive: Annotated[bool, flag("Without inbox and outbox, to see what is lost then.")] = False,
    mutate: Annotated[str | None, Parameter(help="Take one protection away: no_outbox, no_inbox or ack_before_handle.")] = None,
    smtp: Annotated[str | None, Parameter(help="Send mails to this HOST:PORT instead of the demo's own inbox.")] = None,
    data: Annotated[str | None, Parameter(help="The folder for its files; a temporary one otherwise.")] = None,
    orders: Annotated[int, Parameter(help="Orders to place at once when it is ready; key o places one.")] = 0,
    duplicates: Annotated[int, Parameter(help="Events to publish a second time; key d does ten.")] = 0,
    kill: Annotated[tuple[str, ...], Parameter(help="A service to kill -9; may be repeated; key k.", negative="", show_default=False)] = (),
    poison: Annotated[int, Parameter(help="Events that break their contract to publish; key p.")] = 0,
    open: Annotated[bool, flag("Show the shop in the browser.")] = False,
    broker: Annotated[str | None, Parameter(help="URL of a broker, such as kafka://localhost:9092; the embedded one otherwise.")] = None,
    output: Annotated[Literal["text", "json"], Parameter(name=["--output", "-o"], help="Text for people, or JSON.")] = "text",
) -> int:
    """Run a shop: storefront, inventory, mailer and analytics, each with its own
    database.

    It opens web pages on this machine and lets customers order. In a terminal,
    keys place an order, repeat events, kill a service or publish a poison event.

    For example:
      millstream demo shop
      millstream demo shop --prove --seconds 20 --seed 1 --output json
      millstream demo shop --broker kafka://localhost:9092
    """
    # Found by name, because demos stand beside the CLI: neither knows the other.
    module = importlib.import_module("millstream.demos.shop")
    options = module.DemoOptions(
        rate=rate,
        forever=forever,
        seconds=seconds,
        seed=seed,
        naive=naive,
        output=output,
        data=data,
        smtp=smtp,
        prove=prove,
        mutate=mutate,
        orders=orders,
        duplicates=duplicates,
        kill=kill,
        poison=poison,
        open=open,
        broker=broker,
    )
    return module.demo(options)
