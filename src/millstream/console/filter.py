"""The filter of event lists: read into terms, and turned into a condition; nothing in it is ever evaluated.

`type:order.placed key:ord_81 status:dead -group:analytics since:1h text`: words stand side by
side and all have to fit, `OR` parts alternatives, `-` or `NOT` turns the next word round,
quotes keep blanks together. A value fits where it is part of the text, in any case.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from millstream.console.schema import FAILURES, KINDS

#: Longer filters, and those of more words, are refused.
LONGEST = 1000
MOST_TERMS = 20
FIELDS = ("type", "key", "id", "topic", "source", "corr", "group", "status", "version", "since", "by")
#: Fields that are names, and the column of their numbers.
NAMED = {"type": "type", "topic": "topic", "source": "source", "by": "by"}
STATUS: dict[str, tuple[int, ...]] = {
    "failed": FAILURES,
    "dead": (KINDS.index("parked"),),
    **{kind: (KINDS.index(kind),) for kind in ("handled", "retry", "queued", "duplicate", "discarded")},
}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: So many names fit at most; a value that fits more of them says too little.
MOST_NAMES = 1000

_WORD = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*"?)+')
_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])")


@dataclass(frozen=True, slots=True)
class Term:
    """A word of a filter; without a field it is looked for everywhere."""

    field: str | None
    value: str
    negated: bool = False

    @property
    def seconds(self) -> float | None:
        """The age that a `since` means."""
        found = _AGE.fullmatch(self.value) if self.field == "since" else None
        return float(found[1]) * SECONDS[found[2]] if found else None


@dataclass(frozen=True, slots=True)
class Filter:
    """All terms of one of the alternatives have to fit; without any, everything does."""

    either: tuple[tuple[Term, ...], ...]

    def only(self, *fields: str | None) -> list[Term]:
        """The terms of these fields that every match has to fit."""
        return [term for term in self.either[0] if term.field in fields and not term.negated] if len(self.either) == 1 else []

    @property
    def since(self) -> float | None:
        """No match is older than so many seconds."""
        ages = [age for term in self.only("since") if (age := term.seconds) is not None]
        return min(ages, default=None)


def parse(text: str) -> Filter:
    """Read a filter; `ValueError` says what in it cannot be understood."""
    if len(text) > LONGEST:
        raise ValueError(f"filter: it has {len(text)} characters, and {LONGEST} are the most")
    either: list[list[Term]] = [[]]
    negated = False
    for found in _WORD.finditer(text):
        word = found[0]
        if word == "OR":
            either.append([])
        elif word == "NOT":
            negated = True
        else:
            either[-1].append(_term(word, negated=negated))
            negated = False
    if sum(map(len, either)) > MOST_TERMS:
        raise ValueError(f"filter: {MOST_TERMS} words are the most")
    return Filter(tuple(tuple(terms) for terms in either if terms))


def _term(word: str, *, negated: bool) -> Term:
    turned = word.startswith("-") and len(word) > 1
    bare = word[1:] if turned else word
    name, colon, rest = bare.partition(":")
    if bare.startswith('"') or not colon or not name:
        return Term(None, _unquoted(bare), turned != negated)
    if name not in FIELDS:
        if not re.fullmatch("[a-z]+", name):
            return Term(None, _unquoted(bare), turned != negated)
        near = get_close_matches(name, FIELDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(FIELDS)}"
        raise ValueError(f"filter: there is no field {name}; {hint}")
    term = Term(name, _unquoted(rest), turned != negated)
    if name == "status" and term.value not in STATUS:
        raise ValueError(f"filter: status is one of {', '.join(STATUS)}")
    if name == "since" and term.seconds is None:
        raise ValueError("filter: since is a time like 30s, 15m, 2h or 1d")
    return term


def _unquoted(word: str) -> str:
    if not word.startswith('"'):
        return word
    inner = word[1:-1] if len(word) > 1 and word.endswith('"') else word[1:]
    return re.sub(r"\\(.)", r"\1", inner)


class Condition:
    """A filter as SQL on `event`, and what it is asked with; every value is a parameter or a number of ours."""

    def __init__(self, filter: Filter, names: Mapping[int, str], now: float) -> None:
        self._names = names
        self._now = now
        self.params: list[Any] = []
        self.sql = " or ".join(self._all(terms) for terms in filter.either) or "1"

    def _all(self, terms: Sequence[Term]) -> str:
        return "(" + " and ".join(f"not coalesce({self._one(term)}, 0)" if term.negated else self._one(term) for term in terms) + ")"

    def _one(self, term: Term) -> str:
        match term.field:
            case "type" | "topic" | "source" | "by":
                return self._named(NAMED[term.field], term.value)
            case "key" | "id":
                return self._within(term.field, term.value)
            case "corr":
                return self._within("correlation", term.value)
            case "group":
                return f"exists(select 1 from attempt where event=event.n and {self._named('grp', term.value)})"  # noqa: S608
            case "status":
                kinds = ",".join(map(str, STATUS[term.value]))
                return f"exists(select 1 from attempt where event=event.n and kind in ({kinds}))"  # noqa: S608
            case "version":
                self.params.append(term.value.removeprefix("v"))
                return "cast(version as text)=?"
            case "since":
                self.params.append(int((self._now - (term.seconds or 0.0)) * 1e6))
                return "time>=?"
            case _:
                texts = [self._within(column, term.value) for column in ("key", "id", "correlation")]
                return "(" + " or ".join([*texts, self._named("type", term.value), self._named("source", term.value)]) + ")"

    def _within(self, column: str, value: str) -> str:
        self.params.append(value)
        return f"coalesce(instr(lower({column}), lower(?)), 0)>0"

    def _named(self, column: str, value: str) -> str:
        numbers = numbers_of(self._names, value)
        if len(numbers) > MOST_NAMES:
            raise ValueError(f"filter: {value!r} fits more than {MOST_NAMES} names; write more of it")
        return f"+{column} in ({','.join(map(str, numbers))})"


def numbers_of(names: Mapping[int, str], value: str) -> list[int]:
    """The numbers of the names that a value is part of."""
    lower = value.lower()
    return [number for number, text in names.items() if lower in text.lower()]
