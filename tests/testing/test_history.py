"""The checker of histories finds every anomaly that is planted, and nothing in a good history."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from millstream.testing.history import History, Journal, Reader, Stored, check, check_polls, recovered, worst_lag


class Case:
    """A good history: two producers, four keys, one group with an inbox and one without."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.history = History()
        self.log: list[Stored] = []
        heads = [0, 0]
        for counter in range(1, 31):
            for process in ("a", "b"):
                key = self.random.choice("wxyz")
                value = f"{process}-{counter}"
                self.history.add("sending", key, value)
                ending = self.random.choices(["acknowledged", "failed", "unknown", "recovered"], [16, 2, 1, 1])[0]
                if ending in ("acknowledged", "failed"):
                    self.history.add(ending, key, value)
                if ending in ("acknowledged", "recovered"):
                    partition = ord(key) % 2
                    self.log.append(Stored(f"t/{partition}", heads[partition], key, value))
                    heads[partition] += 1
        dead = self.random.choice(self.log).value
        self.once = Reader("once", [(s.key, s.value) for s in self.log if s.value != dead], once=True, dead=frozenset({dead}))
        every = [(s.key, s.value) for s in self.log]
        again = self.random.randrange(len(every))
        self.repeats = Reader("repeats", [*every[: again + 5], *every[again:]], once=False)

    def kinds(self) -> set[str]:
        return {violation.kind for violation in check(self.history, self.log, [self.once, self.repeats])}

    def acknowledged(self) -> Stored:
        """Choose an event that is stored, acknowledged and not dead."""
        good = set(self.history.acknowledged) - self.once.dead
        return self.random.choice([stored for stored in self.log if stored.value in good])

    def pair(self) -> tuple[int, int]:
        """Choose two neighbours in the log of one producer and key, neither of them dead."""
        alive = [(i, s) for i, s in enumerate(self.log) if s.value not in self.once.dead]
        pairs = [
            (i, j)
            for n, (i, first) in enumerate(alive)
            for j, second in alive[n + 1 :]
            if first.key == second.key and first.value[0] == second.value[0]
        ]
        return self.random.choice(pairs)


def lose(case: Case) -> None:
    case.log.remove(case.acknowledged())


def lose_the_last(case: Case) -> None:
    case.log.remove(max((s for s in case.log if s.value in case.history.acknowledged), key=lambda s: s.position))


def hold_what_was_refused(case: Case) -> None:
    stored = case.acknowledged()
    case.history.add("failed", stored.key, stored.value)


def hold_what_nobody_sent(case: Case) -> None:
    case.log.append(Stored("t/2", 0, "w", "c-1"))


def store_twice(case: Case) -> None:
    case.log.append(replace(case.acknowledged(), partition="t/2", position=0))


def repeat_on_purpose(case: Case) -> None:
    stored = case.acknowledged()
    case.history.add("repeating", stored.key, stored.value)
    case.log.append(replace(stored, position=1 + max(s.position for s in case.log if s.partition == stored.partition)))


def share_a_position(case: Case) -> None:
    case.log[3] = replace(case.log[3], partition=case.log[2].partition, position=case.log[2].position)


def store_out_of_order(case: Case) -> None:
    i, j = case.pair()
    first, second = case.log[i], case.log[j]
    case.log[i], case.log[j] = replace(first, value=second.value), replace(second, value=first.value)


def skip_an_event(case: Case) -> None:
    value = case.acknowledged().value
    case.once = replace(case.once, seen=[s for s in case.once.seen if s[1] != value])


def repeat_an_effect(case: Case) -> None:
    again = case.random.choice(case.once.seen)
    case.once = replace(case.once, seen=[*case.once.seen, again])


def revive_a_dead_letter(case: Case) -> None:
    (dead,) = case.once.dead
    case.once = replace(case.once, seen=[*case.once.seen, (next(s.key for s in case.log if s.value == dead), dead)])


def handle_out_of_order(case: Case) -> None:
    i, j = case.pair()
    a, b = (case.log[i].key, case.log[i].value), (case.log[j].key, case.log[j].value)
    case.once = replace(case.once, seen=[b if s == a else a if s == b else s for s in case.once.seen])


def repeat_out_of_order(case: Case) -> None:
    i, j = case.pair()
    late = (case.log[j].key, case.log[j].value)
    case.repeats = replace(case.repeats, seen=[*[(s.key, s.value) for s in case.log[:i]], late, *case.repeats.seen[i:]])


def see_what_is_not_there(case: Case) -> None:
    case.once = replace(case.once, seen=[*case.once.seen, ("w", "c-9")])


def change_a_key(case: Case) -> None:
    stored = case.acknowledged()
    case.log[case.log.index(stored)] = replace(stored, key="other")


@pytest.mark.parametrize("seed", range(20))
def test_a_good_history_has_no_violation(seed: int) -> None:
    """Refused sends, dead letters, redelivered pages and recovered sends are no anomalies."""
    assert check(Case(seed).history, Case(seed).log, [Case(seed).once, Case(seed).repeats]) == []


@pytest.mark.parametrize("seed", range(20))
def test_an_event_that_is_sent_twice_on_purpose_may_be_stored_twice(seed: int) -> None:
    """A producer that repeats itself is no anomaly, as long as the effect is not repeated."""
    case = Case(seed)

    repeat_on_purpose(case)

    assert case.kinds() == set()


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (lose, "lost"),
        (lose_the_last, "lost"),
        (hold_what_was_refused, "aborted read"),
        (hold_what_nobody_sent, "unexpected"),
        (store_twice, "duplicate"),
        (share_a_position, "inconsistent positions"),
        (store_out_of_order, "nonmonotonic send"),
        (skip_an_event, "unseen"),
        (repeat_an_effect, "double effect"),
        (revive_a_dead_letter, "double effect"),
        (handle_out_of_order, "out of order"),
        (repeat_out_of_order, "out of order"),
        (see_what_is_not_there, "unexpected"),
        (change_a_key, "unexpected"),
    ],
)
@pytest.mark.parametrize("seed", range(20))
def test_every_planted_anomaly_is_found(plant: Callable[[Case], None], kind: str, seed: int) -> None:
    """Whatever can go wrong is planted into a good history, and named."""
    case = Case(seed)

    plant(case)

    assert kind in case.kinds()


class Polls:
    """A good history of polls: two producers, two groups; one has two members, of which one dies and is taken over from."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: list[list[Any]] = []
        heads = [0, 0]
        self.log: list[Stored] = []
        for counter in range(1, 41):
            for process in ("a", "b"):
                key = self.random.choice("wxyz")
                value = f"{process}-{counter}"
                self.lines += [["sending", key, value], ["committing", key, value]]
                ending = self.random.choices(["acknowledged", "failed", "recovered"], [17, 2, 1])[0]
                if ending != "recovered":
                    self.lines.append([ending, key, value])
                if ending != "failed":
                    partition = ord(key) % 2
                    self.log.append(Stored(f"t/{partition}", heads[partition], key, value))
                    heads[partition] += 1
        for group, members in (("one", 1), ("two", 2)):
            for partition in (0, 1):
                self.read(group, f"m{partition % members}", [s for s in self.log if s.partition == f"t/{partition}"])
        # The second member of "two" dies with its last page unsettled; the first gets it again.
        *_, (last, settled) = [(n, n + 1) for n, line in enumerate(self.lines) if line[:2] == ["polled", "two/m1"]]
        page = self.again = [list(item) for item in self.lines[last][2]]
        del self.lines[settled]
        self.lines += [["moved", "two/m0", ""], ["polled", "two/m0", page], ["settled", "two/m0", [item[3] for item in page]]]

    def read(self, group: str, member: str, records: list[Stored]) -> None:
        consumer = f"{group}/{member}"
        self.lines.append(["moved", consumer, ""])
        while records:
            page, records = records[: (size := self.random.randint(2, 6))], records[size:]
            self.lines.append(["polled", consumer, [[s.partition, s.position, s.key, s.value] for s in page]])
            self.lines.append(["settled", consumer, [s.value for s in page]])

    def kinds(self, **options: bool) -> set[str]:
        history = History()
        for at, (what, key, value) in enumerate(self.lines):
            history.add(what, key, value, at)
        return {violation.kind for violation in check_polls(history, **options)}

    def pages(self, consumer: str = "one/m0", least: int = 2) -> list[list[Any]]:
        """What this consumer was given for the first time."""
        given = [line[2] for line in self.lines if line[:2] == ["polled", consumer]]
        return [page for page in given if len(page) >= least and page is not self.again]

    def page(self, consumer: str = "one/m0", least: int = 2) -> list[Any]:
        return self.random.choice(self.pages(consumer, least))

    def neighbours(self) -> tuple[list[Any], list[Any]]:
        """Two events of one key and producer in one page of group two."""
        pairs = [
            (x, y)
            for page in self.pages("two/m0") + self.pages("two/m1")
            for n, x in enumerate(page)
            for y in page[n + 1 :]
            if x[2] == y[2] and x[3][0] == y[3][0]
        ]
        return self.random.choice(pairs)

    def everywhere(self, value: str) -> list[tuple[list[Any], Any]]:
        return [(line[2], item) for line in self.lines if line[0] == "polled" for item in line[2] if item[3] == value]

    def at(self, what: str, value: str) -> list[Any]:
        return next(line for line in self.lines if line[0] == what and line[2] == value)


def known(polls: Polls) -> list[str]:
    return [line[2] for line in polls.lines if line[0] == "acknowledged"]


def read_no_more_of(polls: Polls, *, last: bool) -> None:
    """An event of a key and producer that has a later one, or has none, is taken out of all polls."""
    furthest = {(s.key, s.value[0]): s.value for s in polls.log}
    good = [s.value for s in polls.log if s.value in known(polls) and (furthest[s.key, s.value[0]] == s.value) == last]
    for page, item in polls.everywhere(polls.random.choice(good)):
        page.remove(item)


def read_over(polls: Polls) -> None:
    read_no_more_of(polls, last=False)


def read_not_to_the_end(polls: Polls) -> None:
    read_no_more_of(polls, last=True)


def read_what_was_refused(polls: Polls) -> None:
    polls.at("acknowledged", polls.random.choice([s.value for s in polls.log if s.value in known(polls)]))[0] = "failed"


def read_too_early(polls: Polls) -> None:
    line = polls.at("committing", polls.page()[0][3])
    polls.lines.remove(line)
    polls.lines.append(line)


def read_what_nobody_sent(polls: Polls) -> None:
    polls.page().append(["t/9", 0, "w", "c-1"])


def read_two_at_one_position(polls: Polls) -> None:
    page = polls.page()
    page[0][1] = page[1][1]


def read_one_at_two_positions(polls: Polls) -> None:
    page = polls.page()
    page.append([page[0][0], 900, *page[0][2:]])


def lie_the_wrong_way_round(polls: Polls) -> None:
    first, second = (item[3] for item in polls.neighbours())
    swapped = [(item, second) for _, item in polls.everywhere(first)] + [(item, first) for _, item in polls.everywhere(second)]
    for item, value in swapped:
        item[3] = value


def jump_inside_a_poll(polls: Polls) -> None:
    del polls.page(least=3)[1]


def go_back_inside_a_poll(polls: Polls) -> None:
    polls.page().reverse()


def jump_between_polls(polls: Polls) -> None:
    whole = [n for n, line in enumerate(polls.lines) if line[0] == "polled" and line[1] == "one/m0"]
    del polls.lines[polls.random.choice([n for n in whole if n - 2 in whole and n + 2 in whole])]


def go_back_between_polls(polls: Polls) -> None:
    n = polls.random.choice([n for n, line in enumerate(polls.lines) if line[:2] == ["polled", "one/m0"]])
    polls.lines.insert(n + 2, polls.lines[n])


def see_a_key_out_of_order(polls: Polls) -> None:
    first, second = polls.neighbours()
    page = next(page for page in polls.pages("two/m0") + polls.pages("two/m1") if first in page)
    i, j = page.index(first), page.index(second)
    page[i], page[j] = page[j], page[i]


def leave_out_of_one_group(polls: Polls) -> None:
    polls.page("two/m0").pop()


def settle_nowhere(polls: Polls) -> None:
    value = polls.page("two/m1")[0][3]
    for line in polls.lines:
        if line[0] == "settled" and line[1].startswith("two/") and value in line[2]:
            line[2] = [other for other in line[2] if other != value]


@pytest.mark.parametrize("seed", range(20))
def test_good_polls_have_no_violation(seed: int) -> None:
    """Nor have those after a takeover, which come a second time."""
    assert Polls(seed).kinds() == set()
    assert Polls(seed).kinds(positions=False) == set()


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (read_over, "lost"),
        (read_not_to_the_end, "unseen"),
        (read_what_was_refused, "aborted read"),
        (read_too_early, "precommitted read"),
        (read_what_nobody_sent, "unexpected"),
        (read_two_at_one_position, "inconsistent positions"),
        (read_one_at_two_positions, "duplicate"),
        (lie_the_wrong_way_round, "nonmonotonic send"),
        (jump_inside_a_poll, "internal poll skip"),
        (go_back_inside_a_poll, "internal nonmonotonic poll"),
        (jump_between_polls, "poll skip"),
        (go_back_between_polls, "nonmonotonic poll"),
        (see_a_key_out_of_order, "out of order"),
        (leave_out_of_one_group, "divergence"),
        (settle_nowhere, "unsettled"),
    ],
)
@pytest.mark.parametrize("seed", range(20))
def test_every_anomaly_that_is_planted_into_polls_is_found(plant: Callable[[Polls], None], kind: str, seed: int) -> None:
    """Whatever can go wrong between a send and a poll is planted into a good history, and named."""
    polls = Polls(seed)

    plant(polls)

    assert kind in polls.kinds()


def polled(values: list[str], *, topics: tuple[str, ...] = ("t",)) -> History:
    """Read a good history, in which one group has polled these values of one key from the only partition of each topic."""
    history = History()
    for value in dict.fromkeys(values):
        history.add("sending", "k", value)
        history.add("acknowledged", "k", value)
    for topic in topics:
        theirs = [value for value in values if len(topics) == 1 or value.startswith(topic)]
        history.add("polled", "g/m", [[f"{topic}/0", n, "k", value] for n, value in enumerate(theirs)])
    history.add("settled", "g/m", values)
    return history


@pytest.mark.parametrize(
    ("effects", "with_positions", "without"),
    [
        (["p-1", "p-2", "p-3"], [], []),
        (["p-1", "p-2", "p-3", "p-2"], ["double effect"], ["double effect"]),
        (["p-1", "p-3"], ["unseen"], ["unseen"]),
        (["p-1", "p-2", "p-3", "p-9"], ["unexpected"], ["unexpected"]),
        (["p-2", "p-1", "p-3"], ["out of order"], ["nonmonotonic send"]),
    ],
)
def test_effects_are_held_to_what_all_have_polled(effects: list[str], with_positions: list[str], without: list[str]) -> None:
    """Where nobody can read the log, what the groups have polled of it together stands for it, with positions or without."""
    history, reader = polled(["p-1", "p-2", "p-3"]), Reader("effects", [("k", value) for value in effects], once=True)

    assert [violation.kind for violation in check_polls(history, [reader])] == with_positions
    assert [violation.kind for violation in check_polls(history, [reader], positions=False)] == without
    assert {v.kind for v in check_polls(history, [reader], positions=False, ordered=False)} == set(without) - {"nonmonotonic send"}


def test_a_key_has_an_order_in_each_topic_and_none_between_topics() -> None:
    """A group may read one topic before the other, and a reader of one has nothing to do with the other."""
    history = polled(["b-1", "a-1", "b-2", "a-2"], topics=("b", "a"))

    assert check_polls(history, [Reader("effects", [("k", "a-1"), ("k", "a-2")], once=True, topic="a")]) == []


def test_a_queue_without_positions_is_judged_by_its_values(tmp_path: Path) -> None:
    """A redelivery is no anomaly there; an overtaking is."""
    journal = Journal(tmp_path, "p")
    for value in (values := [journal.value() for _ in range(3)]):
        journal.sending("k", value)
        journal.acknowledged("k", value)
    journal.polled("g/m", [Stored("q/0", n, "k", value) for n, value in enumerate([values[0], values[2], values[1], values[0]])])
    journal.settled("g/m", values)
    journal.close()

    history = History.read(tmp_path)

    assert [violation.kind for violation in check_polls(history, positions=False)] == ["nonmonotonic send"]
    assert check_polls(history, positions=False, ordered=False) == []
    assert 0 < worst_lag(history) < 10


def test_a_journal_tells_how_each_send_ended(tmp_path: Path) -> None:
    """What a process wrote down is read back; a send without an end is of unknown outcome."""
    journal = Journal(tmp_path, "p")
    one, two, three = (journal.value() for _ in range(3))
    for value in (one, two, three):
        journal.sending("k", value)
    journal.acknowledged("k", one)
    journal.failed("k", two)
    journal.handled("k", one)
    journal.close()

    history = History.read(tmp_path)

    assert history.sends == {"p-1": ("k", "acknowledged"), "p-2": ("k", "failed"), "p-3": ("k", "unknown")}
    assert history.handled == [("k", "p-1")]
    assert recovered(history, [Stored("t/0", 0, "k", "p-3")]) == 1


def test_a_line_that_is_not_finished_is_not_read(tmp_path: Path) -> None:
    """Whoever writes it has died, or is about to write the rest."""
    journal = Journal(tmp_path, "p")
    journal.sending("k", "v1")
    journal.close()
    file = next(tmp_path.glob("*.journal"))
    file.write_bytes(file.read_bytes() + b'["sending", "k", "v')

    assert list(History.read(tmp_path).sends) == ["v1"]
