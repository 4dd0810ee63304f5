import sys

import numpy as np
import pytest

from cloud_service.estimates import detectors
from shared.errors import SettingsError


def test_missing_river_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "river.drift", None)
    with pytest.raises(SettingsError, match=r"pip install 'edgeloop\[cloud\]'.*or set drift = false"):
        detectors.load()


def test_page_hinkley_hears_scores_rise_and_not_fall():
    make = detectors.load()
    rng = np.random.default_rng(1)
    for shift, spoke in ((1.0, True), (-1.0, False)):
        page_hinkley = make().page_hinkley
        assert not any(page_hinkley.update(value) for value in rng.normal(size=1_000))
        assert any(page_hinkley.update(value) for value in rng.normal(shift, size=200)) is spoke


@pytest.mark.parametrize("mean", [0.1, 0.5])
def test_adwin_hears_the_mean_move_either_way(mean):
    adwin = detectors.load()().adwin
    rng = np.random.default_rng(2)
    assert not any(adwin.update(value) for value in rng.normal(0.3, 0.1, size=1_000))
    assert any(adwin.update(value) for value in rng.normal(mean, 0.1, size=200))


def test_each_pair_is_fresh():
    make = detectors.load()
    first = make()
    assert any(first.page_hinkley.update(value) for value in [0.0] * 100 + [9.0] * 100)
    second = make()
    assert not second.page_hinkley.update(0.0)
    assert not second.adwin.update(0.0)
