"""`MODULE:APP`: finding the App that a command is about."""

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from millstream.app.app import App
from millstream.contracts.errors import ConfigurationError
from millstream.contracts.message import Contract


def load(target: str) -> App:
    """The App that `MODULE:APP` names; `MODULE` is enough where the module has only one.

    The current folder is searched first, then what is installed. `APP` may be a function
    without arguments that returns one. Raises `ConfigurationError` with what went wrong.
    """
    name, _, attribute = target.partition(":")
    if name.endswith(".py") or "/" in name:
        fixed = name.removesuffix(".py").strip("./").replace("/", ".")
        raise ConfigurationError(f"{target!r} names a file. Name the module instead: {fixed}:{attribute or 'app'}")
    module = _imported(name, target)
    found: object = module
    if not attribute:
        apps = [key for key, value in vars(module).items() if isinstance(value, App)]
        if len(apps) != 1:
            raise ConfigurationError(f"the module {name!r} has {len(apps)} Apps. Name one: {name}:{apps[0] if apps else 'app'}")
        attribute = apps[0]
    for part in attribute.split("."):
        if not hasattr(found, part):
            apps = [key for key, value in vars(module).items() if isinstance(value, App)]
            hint = f"It has the App {name}:{apps[0]}." if apps else "Add a line such as: app = App('my-service')"
            raise ConfigurationError(f"{target!r}: the module {name!r} has no {attribute!r}. {hint}")
        found = getattr(found, part)
    if not isinstance(found, App | type) and callable(found):
        found = found()
    if not isinstance(found, App):
        raise ConfigurationError(f"{target!r} is a {type(found).__name__}, not a millstream App. Name the App of the service.")
    return found


def contracts(app: App) -> dict[str, Contract]:
    """The contracts that an App's modules know, by name: those it handles, and those declared or imported beside the App."""
    found = {contract.name: contract for handler in app.handlers() for contract in handler.contracts}
    for module in list(sys.modules.values()):
        space = vars(module)
        if not any(value is app for value in list(space.values())):
            continue
        for value in list(space.values()):
            contract = vars(value).get("__millstream__") if isinstance(value, type) else None
            if isinstance(contract, Contract):
                found.setdefault(contract.name, contract)
    return found


def _imported(name: str, target: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The module itself, or the package it should be in; anything else is missing inside it.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(f"{target!r}: {_where(error)} needs {error.name!r}, which is not installed here.") from error
        near = ", ".join(sorted(path.stem for path in Path.cwd().glob("*.py"))[:5])
        hint = f"Modules here: {near}." if near else "Go to the folder it is in, or install the package."
        raise ConfigurationError(f"{target!r}: there is no module {error.name!r} in {here}. {hint}") from error
    except Exception as error:
        raise ConfigurationError(
            f"{target!r} cannot be imported: {type(error).__name__}: {error} (in {_where(error)}). Repair the module; --debug shows more."
        ) from error


def _where(error: BaseException) -> str:
    """The line of the user's code that failed."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename and f.filename != __file__]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an import"
