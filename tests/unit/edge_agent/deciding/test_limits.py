import random

import pytest

from edge_agent.deciding.buckets import DAY_S, ByteBucket, RateBucket
from edge_agent.deciding.limits import Limits
from edge_agent.deciding.settings import BudgetSettings


def worst(sent, window=500):
    running = most = sum(sent[:window])
    for left, entered in zip(sent, sent[window:], strict=False):
        running += entered - left
        most = max(most, running)
    return most / window


def worst_day(sent):
    """Largest sum of bytes of [(time, bytes)] within any 24 hours."""
    return max(sum(size for other, size in sent if time <= other < time + DAY_S) for time, _ in sent)


@pytest.mark.parametrize("share", [0.004, 0.02, 0.15, 0.5, 1.0])
def test_rate_bucket_of_a_greedy_device_holds_the_share_and_the_worst_window(share):
    bucket, sent = RateBucket(share), []
    for _ in range(10_000):
        sent.append(bucket.admits())
        bucket.passed(sent=sent[-1])
    assert sum(sent) / len(sent) == pytest.approx(share, abs=0.005)
    assert worst(sent) <= max(1.25 * share, share + 1 / 500) + 1e-9


def test_rate_bucket_after_a_rest_lets_a_quarter_more_through_and_no_more():
    bucket, sent = RateBucket(0.15), []
    for _ in range(2000):
        bucket.passed(sent=False)
    assert bucket.fullness == 1.0
    for _ in range(500):
        sent.append(bucket.admits())
        bucket.passed(sent=sent[-1])
    assert sum(sent) == 93  # 1.25 · 75, rounded down
    assert bucket.fullness < 0.1


def test_byte_bucket_of_a_greedy_device_never_sends_more_than_a_days_bytes_in_any_day():
    bucket, sent, rng = ByteBucket(1_000_000), [], random.Random(2)
    for second in range(0, 3 * 86_400, 20):
        size = rng.randint(100, 20_000)
        if bucket.admits(size, second):
            bucket.sent(size, second)
            sent.append((second, size))
    assert 0.85e6 < worst_day(sent) <= 1e6
    assert sum(size for _, size in sent) == pytest.approx(3 * 0.9e6, rel=0.05)


def test_byte_bucket_is_filled_by_time_alone_and_is_full_at_a_tenth_of_the_day():
    bucket = ByteBucket(864_000)
    assert bucket.admits(43_200, 0.0)
    assert not bucket.admits(43_201, 0.0)
    assert bucket.bytes_per_s == pytest.approx(9.0)
    assert bucket.admits(43_200 + 900, 100.0)
    assert bucket.admits(86_400, 1e6)
    assert bucket.fullness == 1.0
    bucket.sent(86_400, 1e6)
    assert not bucket.admits(1, 1e6)


@pytest.mark.parametrize("part", [0.15, 0.25, 0.4, 0.7, 1.0])
def test_byte_bucket_passes_samples_larger_than_itself_seldom_enough(part):
    bucket, sent, size = ByteBucket(1_000_000), [], int(part * 1_000_000)
    for minute in range(4 * 1440):
        if bucket.admits(size, minute * 60.0):
            bucket.sent(size, minute * 60.0)
            sent.append((minute * 60.0, size))
    assert len(sent) >= (1 if part == 1.0 else 2)
    assert worst_day(sent) <= 1e6


def test_byte_bucket_never_passes_a_sample_larger_than_the_day():
    bucket = ByteBucket(1000)
    assert bucket.admits(1, 0.0)
    assert bucket.admits(1000, 1e9)
    assert not bucket.admits(1001, 1e9)


def test_no_limits_admit_everything():
    limits = Limits(BudgetSettings(agreement=0.9))
    limits.passed(10**9, 0.0, sent=True)
    assert (limits.any, limits.admits(10**12, 0.0), limits.share, limits.share_now) == (False, True, 1.0, 1.0)


def test_share_now_is_larger_the_fuller_the_bucket():
    limits = Limits(BudgetSettings(offload=0.2))
    assert (limits.any, limits.share, limits.share_now) == (True, 0.2, 0.2)
    limits.rate.fullness = 1.0
    assert limits.share_now == pytest.approx(0.3)
    limits.rate.fullness = 0.0
    assert limits.share_now == pytest.approx(0.1)
    assert not limits.admits(1, 0.0)


def passed(limits, *, count=100, size_bytes=100, step_s=2.0):
    """One of ten is sent."""
    for index in range(count):
        sent = index % 10 == 0
        limits.passed(size_bytes if sent else 0, index * step_s, sent=sent)
    return limits


def test_bytes_a_day_are_a_share_of_what_comes():
    limits = Limits(BudgetSettings(bytes_per_day=960_000))  # ten bytes a second and what is saved up
    assert limits.share == limits.share_now == 1.0
    limits.passed(0, -2.0, sent=False)
    limits.passed(0, -1.0, sent=False)
    assert limits.share == 1.0  # of what size is not known yet
    limits = passed(Limits(BudgetSettings(bytes_per_day=960_000)))
    assert limits.share == pytest.approx(10 * 2 / 100)
    assert limits.share_now == pytest.approx(limits.share * (0.5 + limits.bytes.fullness))
    limits.passed(100_000, 200.0, sent=True)  # far beyond: in debt until it is earned back
    assert limits.bytes.fullness < 0
    assert limits.share_now == pytest.approx(limits.share * 0.5)
    assert not limits.admits(1, 200.0)


def test_smaller_of_two_limits_counts():
    assert passed(Limits(BudgetSettings(offload=0.01, bytes_per_day=960_000))).share == 0.01
    both = passed(Limits(BudgetSettings(offload=0.9, bytes_per_day=960_000)))
    assert both.share == pytest.approx(0.2)
    assert not both.admits(10**6, 200.0)


def test_pause_counts_as_no_more_than_the_time_in_which_the_bucket_fills():
    limits = Limits(BudgetSettings(bytes_per_day=1_000_000))
    limits.passed(100, 0.0, sent=False)
    limits.passed(100, 1e7, sent=False)
    assert limits.interval_s.value == DAY_S / 10
