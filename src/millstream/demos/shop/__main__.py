"""`python -m millstream.demos.shop SERVICE`: one service's process, as the supervisor starts it."""

import sys
from importlib import import_module

from millstream.demos.shop.options import Settings
from millstream.demos.shop.process import run_service

#: Each service, and the module that serves it.
SERVICES = {
    "storefront": "storefront_site",
    "inventory": "inventory",
    "mailer": "mailer",
    "catcher": "catcher",
    "analytics": "analytics_site",
}


def main() -> None:
    """Run the service named on the command line."""
    if len(sys.argv) != 2 or sys.argv[1] not in SERVICES:
        raise SystemExit(f"usage: python -m millstream.demos.shop {{{'|'.join(SERVICES)}}}")
    settings = Settings.from_environment()
    module = import_module(f"millstream.demos.shop.{SERVICES[sys.argv[1]]}")
    run_service(lambda stop: module.serve(settings, stop))


if __name__ == "__main__":
    main()
