"""A group's verdict follows from its samples, by rules of which the first that matches wins."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.core.verdict import Sample, Verdict, drained_in, judge, worst


def samples(*points: tuple[int | None, int | None], owned: bool | None = True) -> list[Sample]:
    """Samples of (position, head), two seconds apart."""
    return [Sample(at=2.0 * n, position=position, head=head, owned=owned) for n, (position, head) in enumerate(points)]


@pytest.mark.parametrize(
    ("given_samples", "state"),
    [
        (samples((1, 1), (1, 1)), "unknown"),
        (samples((None, 5), (None, 5), (None, 5), (None, 6)), "unknown"),
        (samples((0, 5), (0, 5), (0, 5), owned=False), "stopped"),
        (samples((9, 9), (4, 9), (5, 9)), "rewound"),
        (samples((3, 9), (3, 9), (3, 9)), "stalled"),
        (samples((3, 9), (4, 12), (5, 15)), "behind"),
        (samples((3, 90), (40, 92), (80, 95)), "catching up"),
        (samples((7, 7), (7, 7), (7, 7)), "idle"),
        (samples((7, 7), (8, 9), (11, 11)), "caught up"),
        (samples((7, 7), (7, 9), (11, 12)), "caught up"),
    ],
)
def test_each_state_has_its_samples(given_samples: Sequence[Sample], state: str) -> None:
    """One example of every rule."""
    assert judge(given_samples).state == state


def test_a_paused_group_is_paused_whatever_its_lag() -> None:
    """An operator's word comes before every measurement."""
    assert judge(samples((0, 99), (0, 99), (0, 99), owned=False), paused=True).state == "paused"


def test_a_stalled_group_names_what_it_waits_for() -> None:
    """The sentence says what to look at."""
    verdict = judge(samples((3, 9), (3, 9), (3, 9)), blocked="2 dead letters")

    assert verdict.sentence == "Blocked: 2 dead letters; 6 events wait"


def test_a_group_that_was_not_owned_for_a_moment_is_not_stopped() -> None:
    """Partitions change hands."""
    given_samples = samples((3, 9), (4, 9), (5, 9))
    given_samples[-1] = Sample(at=4.0, position=5, head=9, owned=False)

    assert judge(given_samples).state == "catching up"


def test_the_time_to_drain_is_the_lag_over_its_slope() -> None:
    """Ten events a second less, fifty to go."""
    assert drained_in([Sample(at=float(n), position=10 * n, head=100, owned=True) for n in range(6)]) == pytest.approx(5.0)
    assert drained_in(samples((1, 5), (1, 6), (1, 7))) is None


positions = st.integers(0, 1000)


@given(st.lists(st.tuples(positions, positions, st.booleans()), max_size=20), st.booleans())
def test_every_history_has_a_verdict_with_a_sentence(history: list[tuple[int, int, bool]], paused: bool) -> None:
    """No samples make it fail, and what it says fits what it is."""
    given_samples = [
        Sample(at=float(n), position=min(position, head), head=head, owned=owned) for n, (position, head, owned) in enumerate(history)
    ]

    verdict = judge(given_samples, paused=paused)

    assert verdict.sentence
    if verdict.state in ("idle", "caught up"):
        assert any(sample.lag == 0 for sample in given_samples[-10:])
    if verdict.state in ("stopped", "stalled", "behind", "catching up"):
        assert given_samples[-1].lag


@given(st.lists(st.sampled_from(["idle", "caught up", "behind", "stopped"]), min_size=1))
def test_a_group_is_as_bad_as_its_worst_partition(states: list[str]) -> None:
    """And idle only if nothing of it moves."""
    found = worst([Verdict(state=state, rule=0, sentence="") for state in states])  # type: ignore[arg-type]

    order = ["idle", "caught up", "behind", "stopped"]
    assert found.state == max(states, key=order.index)
