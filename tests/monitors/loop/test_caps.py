"""How many rows each key may have: no key more than its share, and no more left out than that takes."""

from math import floor

from hypothesis import given
from hypothesis import strategies as st

from monitors.loop.caps import most_of_each

COUNTS = st.lists(st.integers(1, 40), max_size=8)
SHARES = st.floats(0.01, 1.0, exclude_min=True)


@given(COUNTS, st.integers(0, 40), SHARES)
def test_no_key_has_more_than_its_share(counts: list[int], trusted: int, share: float) -> None:
    """Of the rows that there then are."""
    limit = most_of_each(counts, trusted, share)
    taken = [min(count, limit) for count in counts]
    total = trusted + sum(taken)
    assert all(rows <= floor(share * total) for rows in taken)


@given(COUNTS, st.integers(0, 40), SHARES)
def test_there_are_as_many_rows_as_possible(counts: list[int], trusted: int, share: float) -> None:
    """No larger number of rows can be made up of keys that keep to their share of it."""
    limit = most_of_each(counts, trusted, share)
    total = trusted + sum(min(count, limit) for count in counts)
    for larger in range(total + 1, trusted + sum(counts) + 1):
        assert trusted + sum(min(count, floor(share * larger)) for count in counts) < larger


def test_three_keys_make_a_dataset_where_two_cannot() -> None:
    """With two fifths for each, two keys never add up to a whole; a trusted one makes up for the rest."""
    assert most_of_each([50, 50], 0, 0.4) == 0
    assert most_of_each([50, 50, 50], 0, 0.4) >= 50
    assert most_of_each([1000, 50, 50], 0, 0.4) == 66
    assert most_of_each([1000], 60, 0.4) == 40
    assert most_of_each([], 10, 0.4) == 4
