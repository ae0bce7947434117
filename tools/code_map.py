"""Writes the code map of ARCHITECTURE.md: each file of the package, with the first paragraph of its docstring.

`--check` changes nothing, and ends with 1 if the map is not up to date.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "ARCHITECTURE.md"
PACKAGE = ROOT / "src" / "millstream"
SECTION = re.compile(r"(### `(?P<folder>\w+)/`\n\n(?P<about>[^\n]+)\n\n\| file \| \|\n\| --- \| --- \|\n)(?:\|[^\n]*\n)*")


def row(path: Path, folder: str) -> str:
    """One file's line of the map."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    about = " ".join(docstring.partition("\n\n")[0].split()).replace("|", "\\|")
    return f"| [`{path.relative_to(PACKAGE / folder)}`]({path.relative_to(ROOT)}) | {about} |\n"


def mapped(page: str) -> str:
    """The page with its map up to date."""

    def section(found: re.Match[str]) -> str:
        files = sorted(path for path in (PACKAGE / found["folder"]).rglob("*.py") if path.name != "__init__.py")
        return found[1] + "".join(row(path, found["folder"]) for path in files)

    return SECTION.sub(section, page)


def main() -> int:
    """Update the page, or check it."""
    page = PAGE.read_text(encoding="utf-8")
    new = mapped(page)
    if "--check" in sys.argv:
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
