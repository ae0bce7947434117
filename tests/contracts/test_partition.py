"""Partitions that agree with Kafka's Java client."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contracts.partition import murmur2, partition_of, partitions_of

# From org.apache.kafka.common.utils.UtilsTest.
VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "expected"), VECTORS.items())
def test_murmur2_gives_what_java_gives(key: bytes, expected: int) -> None:
    """Kafka's own test vectors hold."""
    assert murmur2(key) == expected


@given(st.binary())
def test_murmur2_is_a_signed_32_bit_number(key: bytes) -> None:
    """Every key of every length has a hash that Java's int can hold."""
    assert -(2**31) <= murmur2(key) < 2**31


@given(st.text(), st.integers(1, 1000))
def test_every_key_has_one_partition_among_those_there_are(key: str, partitions: int) -> None:
    """The partition follows Java's toPositive(murmur2) % partitions."""
    assert partition_of(key, partitions) == (murmur2(key.encode()) & 0x7FFFFFFF) % partitions
    assert 0 <= partition_of(key, partitions) < partitions


def test_a_negative_hash_is_masked_and_not_negated() -> None:
    """Java masks the sign bit; abs() would choose another partition."""
    assert partition_of("21", 8) == (-973932308 & 0x7FFFFFFF) % 8


@pytest.mark.parametrize("partitions", [0, -1])
def test_a_topic_without_partitions_is_refused(partitions: int) -> None:
    """A wrong count is reported as such and not as a division by zero."""
    with pytest.raises(ValueError, match="at least one partition"):
        partition_of("k", partitions)


@given(st.lists(st.binary(max_size=12), max_size=40), st.integers(1, 1000))
def test_many_keys_at_once_go_where_each_would_alone(keys: list[bytes], partitions: int) -> None:
    """Hashing keys together changes no partition, whatever their lengths."""
    assert partitions_of(keys, partitions) == [(murmur2(key) & 0x7FFFFFFF) % partitions for key in keys]


@given(st.integers(0, 40), st.integers(1, 100), st.randoms(use_true_random=False))
def test_many_keys_of_one_length_have_the_hash_that_each_has_alone(length: int, count: int, random: Random) -> None:
    """No lane reaches into the next, for keys of every length and any number of them."""
    keys = [random.randbytes(length) for _ in range(count)]

    assert partitions_of(keys, 2**31) == [murmur2(key) & 0x7FFFFFFF for key in keys]
