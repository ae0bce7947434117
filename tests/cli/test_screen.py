"""What commands show: data on stdout, the rest on stderr, in any terminal."""

import sys

import pytest

from millstream.cli.screen import Cell, Column, Look, Screen

COLUMNS = [Column("ID", id=True), Column("N", right=True), Column("NOTE", drop=1), Column("TEXT")]


def shown(capsys: pytest.CaptureFixture[str], rows: list[list[Cell | str]], look: Look | None = None) -> list[str]:
    """The lines of a table."""
    Screen(look or Look()).table(COLUMNS, rows)
    return capsys.readouterr().out.splitlines()


def test_a_table_is_aligned_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Wide characters and control characters do not move the columns."""
    lines = shown(capsys, [["a", "1", "x", "龟\x1b[2J"], ["bcd", "22", "龟龟", "end"]])

    assert lines == ["ID    N  NOTE  TEXT", r"a     1  x     龟\e[2J", "bcd  22  龟龟  end"]


def test_in_a_narrow_terminal_columns_go_in_their_order_and_ids_are_cut_in_the_middle(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is broken, and what identifies a row stays."""
    monkeypatch.setenv("COLUMNS", "40")
    row: list[Cell | str] = ["0123456789abcdef0123456789abcdef", "1", "a note that goes", "text of some length"]

    lines = shown(capsys, [row])

    assert max(map(len, lines)) <= 40
    assert "NOTE" not in lines[0]
    assert "…" in lines[1]
    assert lines[1].startswith("01234567")


def test_wide_and_without_a_terminal_nothing_is_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe gets everything."""
    monkeypatch.setenv("COLUMNS", "30")
    row: list[Cell | str] = ["i" * 50, "1", "n" * 50, "t" * 50]

    wide = shown(capsys, [row], Look(wide=True))
    monkeypatch.delenv("COLUMNS")
    piped = shown(capsys, [row])

    assert wide == piped
    assert len(wide[1]) == 50 + 50 + 50 + 1 + 6


@pytest.mark.parametrize(
    ("color", "variables", "colored"),
    [
        ("auto", {}, False),
        ("always", {}, True),
        ("never", {"FORCE_COLOR": "1"}, False),
        ("auto", {"FORCE_COLOR": "1"}, True),
        ("auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colours_are_there_when_they_are_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, color: str, variables: dict[str, str], *, colored: bool
) -> None:
    """The flag decides, then NO_COLOR, then FORCE_COLOR, then whether it is a terminal."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    Screen(Look(color=color)).say("red", "red")  # type: ignore[arg-type]

    assert ("\x1b[31m" in capsys.readouterr().out) is colored


def test_markup_in_data_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A customer called [red] is shown as one."""
    Screen(Look()).say("[red]x[/red] :smile: https://a.b 12")

    assert capsys.readouterr().out == "[red]x[/red] :smile: https://a.b 12\n"


def test_hints_warnings_and_errors_stay_out_of_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    """What is piped on is data only."""
    screen = Screen(Look())

    screen.hint("next")
    screen.warn("careful")
    screen.fail("what\nfix")

    out, err = capsys.readouterr()
    assert out == ""
    assert err == "next\nwarning: careful\nerror: what\nfix\n"


def test_documents_are_one_line_with_their_shape_and_every_digit(capsys: pytest.CaptureFixture[str]) -> None:
    """Integers beyond any float survive, and control characters are escaped."""
    Screen(Look(output="json")).document("thing", n=10**30, text="\x9b\n\u202e")

    assert capsys.readouterr().out == '{"schema":"millstream.v1.thing","n":1' + "0" * 30 + ',"text":"\\u009b\\n\\u202e"}\n'


def test_signs_have_a_simple_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that knows no Unicode is told in ASCII."""
    screen = Screen(Look())

    class Ascii:
        encoding = "ascii"

    pretty = screen.mark("●", "o")
    monkeypatch.setattr(sys, "stdout", Ascii())

    assert (pretty, screen.mark("●", "o")) == ("●", "o")
