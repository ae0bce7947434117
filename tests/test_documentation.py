"""The pages of the repository hold together."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from millstream.contracts import errors

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/**/*.md") for path in ROOT.glob(pattern))
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)(?: \"[^\"]*\")?\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def prose(page: Path) -> str:
    """What a page says outside its code."""
    return re.sub(r"`[^`\n]*`", "``", FENCED.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings answer to."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        repeated = sum(1 for known in found if re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", known))
        found.add(f"{anchor}-{repeated}" if repeated else anchor)
    return found


def broken_links(page: Path, root: Path = ROOT) -> list[str]:
    """The links of a page that lead nowhere in its repository."""
    broken: list[str] = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, fragment = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or not path.is_relative_to(root) or (fragment and path.suffix == ".md" and fragment not in anchors(path)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """A file that moved, or a heading that was renamed, takes every page that links to it along."""
    assert broken_links(page) == []


def test_a_link_to_nowhere_is_noticed(tmp_path: Path) -> None:
    """The check above can fail: for a missing file, a missing heading, and a file outside."""
    page = tmp_path / "page.md"
    page.write_text("# A `b` c\n[here](#a-b-c) [gone](gone.md) [no](#no) [out](../) [web](https://example.org)\n```\n[code](x.md)\n```\n")

    found = broken_links(page, tmp_path)

    assert found == ["gone.md", "#no", "../"]


def test_the_readme_is_short_enough_to_be_read() -> None:
    """Whoever meets Millstream reads one page first: it has at most 250 lines."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()

    assert len(lines) <= 250


def test_every_page_of_the_documentation_is_in_its_index() -> None:
    """A page that no index names is a page that nobody finds."""
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(index.read_text(encoding="utf-8"))}

    missing = [str(page.relative_to(ROOT)) for page in PAGES if page.is_relative_to(index.parent) and page != index and page not in linked]

    assert missing == []


def test_every_error_is_explained() -> None:
    """Whoever meets an exception finds its name in the reference, in the place that it has in the tree."""
    page = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")

    def tree(error: type[errors.MillstreamError], indent: str = "", mark: str = "") -> list[str]:
        below = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__base__ is error]
        lines = [f"{indent}{mark}{error.__name__}"]
        deeper = indent + {"": "", "├── ": "│   ", "└── ": "    "}[mark]
        for kind in below:
            lines += tree(kind, deeper, "└── " if kind is below[-1] else "├── ")
        return lines

    assert "\n".join(tree(errors.MillstreamError)) in page
    assert [name for name in re.findall(r"\w+Error", page) if page.count(f"| `{name}` |") != 1 and name != "MillstreamError"] == []


def test_the_table_of_brokers_says_what_they_declare() -> None:
    """Features are read from the brokers themselves: `make fix`."""
    checked = subprocess.run([sys.executable, "-m", "tools.broker_features", "--check"], cwd=ROOT, timeout=60)

    assert checked.returncode == 0


def test_the_code_map_is_up_to_date() -> None:
    """ARCHITECTURE.md is a map only as long as every file is on it, with what it says of itself: `make fix`."""
    checked = subprocess.run([sys.executable, ROOT / "tools" / "code_map.py", "--check"], timeout=30)

    folders = {path.parent.name for path in (ROOT / "src" / "millstream").glob("*/__init__.py")}
    assert checked.returncode == 0
    assert {folder for folder in folders if f"### `{folder}/`" not in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")} == set()
