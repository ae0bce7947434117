"""The checker of histories finds every anomaly that is planted, and nothing in a good history."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.crash.history import History, Journal, Reader, Stored, check, recovered


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
