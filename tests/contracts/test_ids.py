"""UUIDv7 ids from arguments."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contracts.ids import derived_id, id_millis, new_id, new_ids

millis = st.integers(0, 2**48 - 1)
randoms = st.binary(min_size=10, max_size=10)


@given(millis, randoms)
def test_an_id_is_a_uuid_of_version_7_that_remembers_its_millisecond(when: int, random: bytes) -> None:
    """Any UUID library accepts an id, and the time comes back out of it."""
    id = new_id(when, random)
    assert str(UUID(id)) == id
    assert UUID(id).version == 7
    assert UUID(id).variant == "specified in RFC 4122"
    assert id_millis(id) == when


@given(millis, st.lists(randoms, max_size=20, unique=True))
def test_many_ids_are_as_good_as_one(when: int, randoms: list[bytes]) -> None:
    """Each is a UUID of version 7 with the millisecond in it, and nearly all of its chance."""
    ids = new_ids(when, b"".join(randoms))

    assert [str(UUID(id)) for id in ids] == ids
    assert {(UUID(id).version, UUID(id).variant, id_millis(id)) for id in ids} <= {(7, "specified in RFC 4122", when)}
    assert len(ids) == len(randoms)
    assert [id[-12:] for id in ids] == [random.hex()[7:19] for random in randoms]


@given(millis, millis, randoms, randoms)
def test_ids_sort_by_time_as_text(a: int, b: int, x: bytes, y: bytes) -> None:
    """An earlier millisecond gives a smaller id, whatever chance adds."""
    if a < b:
        assert new_id(a, x) < new_id(b, y)


@given(randoms, randoms)
def test_chance_reaches_the_id(x: bytes, y: bytes) -> None:
    """Two ids are equal only where the 74 bits used of the random bytes are."""
    used = (1 << 80) - 1 & ~(0b111111 << 62)
    same = int.from_bytes(x, "big") & used == int.from_bytes(y, "big") & used
    assert (new_id(0, x) == new_id(0, y)) is same


@pytest.mark.parametrize("length", [0, 9, 11, 16])
def test_a_wrong_amount_of_chance_is_refused(length: int) -> None:
    """Too little would collide; too much is a mistake of the caller."""
    with pytest.raises(ValueError, match="10 random bytes"):
        new_id(0, bytes(length))


@pytest.mark.parametrize("when", [-1, 2**48])
def test_a_time_that_does_not_fit_is_refused(when: int) -> None:
    """Microseconds passed by mistake are not silently cut to some other time."""
    with pytest.raises(ValueError, match="millisecond"):
        new_id(when, bytes(10))


names = st.text(max_size=8)


@given(names, names, names, st.integers(0, 99), millis)
def test_the_same_handling_derives_the_same_id(source: str, input: str, group: str, ordinal: int, when: int) -> None:
    """A repeat after a crash publishes under the id of the first try."""
    id = derived_id(source, input, group, ordinal, when)
    assert id == derived_id(source, input, group, ordinal, when)
    assert UUID(id).version == 7
    assert id_millis(id) == when


@given(st.tuples(names, names, names, st.integers(0, 9)), st.tuples(names, names, names, st.integers(0, 9)))
def test_another_handling_derives_another_id(a: tuple[str, str, str, int], b: tuple[str, str, str, int]) -> None:
    """Neither a moved boundary between parts nor another ordinal gives the same id."""
    assert (derived_id(*a, 0) == derived_id(*b, 0)) is (a == b)


def test_a_boundary_between_the_parts_matters() -> None:
    """("ab", "c") and ("a", "bc") are different inputs."""
    assert derived_id("/ab", "c", "g", 0, 0) != derived_id("/a", "bc", "g", 0, 0)


def test_a_derived_id_never_changes_between_versions() -> None:
    """Ids written by one release are recognised by the next."""
    assert derived_id("/shop", "1", "stock.reserve", 0, 1_700_000_000_000) == DERIVED


DERIVED = "018bcfe5-6800-745a-a60c-43ab5addb923"


@pytest.mark.parametrize(
    "id", ["", "1", "0c6cff11-ed41-4d97-9f43-2204852d8c21", "018bcfe5687b70008203040506070809", "018bcfe5-687b-7000-8203-04050607080_"]
)
def test_an_id_of_another_kind_has_no_millisecond(id: str) -> None:
    """Foreign ids are accepted everywhere, and only their time is unknown."""
    assert id_millis(id) is None
