"""Learning rates, and consecutive runs of rows."""

import pytest

from w2wpp.compute.schedules import chunks, steady_rate


def test_steady_rate_rises_stays_and_falls():
    rates = [steady_rate(step, 1000, 2.0, warmup=50) for step in range(1000)]
    assert rates[0] == pytest.approx(2 / 50)
    assert rates[49:801] == [2.0] * 752
    assert rates[801:] == sorted(rates[801:], reverse=True)
    assert rates[-1] == pytest.approx(2 / 200)


def test_steady_rate_does_not_depend_on_the_end_before_the_fall():
    assert all(steady_rate(step, 2000, 1e-3) == steady_rate(step, 9000, 1e-3) for step in range(1600))


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(5, 2, [(0, 2), (2, 2), (4, 1)]), (4, 4, [(0, 4)]), (3, 9, [(0, 3)]), (0, 3, [])]
)
def test_chunks(count, size, expected):
    assert list(chunks(count, size)) == expected
