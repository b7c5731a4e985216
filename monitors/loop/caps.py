"""How many rows a dataset may have when no key may have more than a share of them.

A dataset of n rows lets each key have floor(share * n). So the largest one is the largest n for which
``trusted + sum(min(count, floor(share * n))) >= n``. The left side never falls as n grows, so going down from all rows,
each time to what the left side gives, ends at that n: the greatest fixed point. There each key has exactly
``min(count, floor(share * n))`` rows, and they add up to n.
"""

from bisect import bisect_right
from collections.abc import Collection
from itertools import accumulate
from math import floor


def most_of_each(counts: Collection[int], trusted: int, share: float) -> int:
    """How many rows each key may have at most, so that there are as many rows as possible.

    Args:
        counts: the rows of each key that is not trusted.
        trusted: the rows of keys that may have any number.
        share: what part of all rows one key may have, above 0.
    """
    ordered = sorted(counts)
    sums = [0, *accumulate(ordered)]
    total = trusted + sums[-1]
    while True:
        limit = floor(share * total)
        whole = bisect_right(ordered, limit)
        fits = trusted + sums[whole] + limit * (len(ordered) - whole)
        if fits == total:
            return limit
        total = fits
