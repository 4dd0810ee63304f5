import time
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ids import new_id, uuid7


def test_uuid7_is_the_example_of_rfc_9562():
    # Appendix A.6: unix_ts_ms 0x017F22E279B0, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F.
    random_bytes = (0x0CC3 << 64 | 0x18C4DC0C0C07398F).to_bytes(10, "big")
    assert uuid7(0x017F22E279B0, random_bytes) == UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_uuid7_has_its_version_variant_and_time(unix_ms, random_bytes):
    made = uuid7(unix_ms, random_bytes)
    assert (made.version, made.variant) == (7, RFC_4122)
    assert made.int >> 80 == unix_ms


@given(st.binary(min_size=10, max_size=10), st.binary(min_size=10, max_size=10))
def test_later_id_sorts_after_an_earlier_one(earlier, later):
    assert str(uuid7(1_000, earlier)) < str(uuid7(1_001, later))


@pytest.mark.parametrize(("unix_ms", "size"), [(-1, 10), (2**48, 10), (0, 9), (0, 11)])
def test_impossible_parts_are_a_mistake(unix_ms, size):
    with pytest.raises(ValueError, match="uuid7"):
        uuid7(unix_ms, bytes(size))


def test_new_ids_differ_and_carry_the_time():
    before = time.time_ns() // 1_000_000
    made = [new_id() for _ in range(1_000)]
    assert len(set(made)) == 1_000
    assert all(before <= each.int >> 80 <= before + 60_000 for each in made)
