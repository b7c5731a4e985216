"""What callgrind counted, by library and for one request."""

import pytest

from benchmarks.speed.instructions import LOOP, OTHER, Count, Spent, largest, per_request, spent_in, without_rest

DUMP = """\
# callgrind format
version: 1
part: 4
desc: Timerange: Basic block 81576341 - 113301776
positions: line
events: Ir
summary: 1157

ob=(3) /usr/lib/libpython3.11.so.1.0
fl=(97) /Python/ceval.c
fn=(18) _PyEval_EvalFrameDefault
3431 10
+22 20
fi=(98) /Include/object.h
-2 5
* 5
fe=(97)
cob=(14) /usr/lib/x86_64-linux-gnu/libc.so.6
cfi=(99) ./malloc/malloc.c
cfn=(20) malloc
calls=3 -12
+1 900
+1 2

fn=(19) _PyEval_EvalFrameDefault'2
90 8

fn=(21) PyDict_New
12 50

ob=(14)
fl=(99)
fn=(20)
3000 900

ob=(41) /venv/lib/python3.11/site-packages/sqlalchemy/engine/_util_cy.cpython-311-x86_64-linux-gnu.so
fn=(30) distill
cob=(3)
cfn=(21)
calls=1 12
7 50
8 70

ob=(42) /venv/lib/python3.11/site-packages/_cffi.abi3.so
fn=(31) call
8 30

ob=(43) /python/lib-dynload/_asyncio.cpython-311-x86_64-linux-gnu.so
fn=(32) step
8 57

totals: 1157
"""


def test_each_function_counts_for_its_library_by_itself() -> None:
    """Not what it called, which stands by itself; names are known by their numbers once they were said."""
    found = spent_in(DUMP.splitlines(keepends=True))
    assert found == {
        LOOP: 50,
        "libpython3.11": 50,
        "libc": 900,
        "sqlalchemy": 70,
        "_cffi": 30,
        "_asyncio": 57,
    }
    assert found.total() == 1157


def test_a_request_costs_its_share() -> None:
    """In thousands, count by count."""
    found = per_request([Spent(libc=300_000, uvloop=100_000), Spent(libc=500_000)], 200)
    assert found.values == pytest.approx((2.0, 2.5))


def test_what_is_spent_at_rest_counts_for_no_request() -> None:
    """It is a matter of time, whatever was asked; places that are used at rest alone are none."""
    at_rest = Count(Spent(libc=300, uvloop=30, libm=3), seconds=3.0)
    assert without_rest(Count(Spent(libc=1000, uvloop=40), seconds=4.0), at_rest) == {"libc": 600, "uvloop": 0}


def test_what_is_small_is_told_together() -> None:
    """So that the places add up to the whole."""
    counts = [Spent({f"library {number}": number for number in range(1, 20)}), Spent({"library 19": 7})]
    found = largest(counts)
    assert [name for name, _ in found] == [*(f"library {number}" for number in range(19, 7, -1)), OTHER]
    assert [sum(count.total() for count in counted) for counted in zip(*(each for _, each in found), strict=True)] == [
        190,
        7,
    ]
    assert found[0][1] == [Spent({"library 19": 19}), Spent({"library 19": 7})]
