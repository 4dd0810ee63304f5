import pytest
from pydantic import ValidationError

from cloud_service.tasks.profiles import DeviceProfile


@pytest.mark.parametrize("limit", ["max_model_bytes", "max_latency_ratio", "max_memory_bytes"])
def test_limit_that_nothing_could_keep_is_refused(limit):
    with pytest.raises(ValidationError, match=limit):
        DeviceProfile.model_validate({limit: 0})
    assert getattr(DeviceProfile.model_validate({limit: 1}), limit) == 1


def test_profile_without_limits_takes_anything():
    assert set(DeviceProfile().model_dump().values()) == {None}


def test_unknown_limit_is_refused():
    with pytest.raises(ValidationError, match="max_bytes"):
        DeviceProfile.model_validate({"max_bytes": 1})
