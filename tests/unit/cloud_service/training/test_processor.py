import pytest

from cloud_service.tasks.compression import Choice
from cloud_service.training.processor import read_flags, saturates, wants_seven_bits

ZEN3 = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu sse2 avx avx2 fma\n"
ZEN4 = "processor\t: 0\nflags\t\t: fpu sse2 avx avx2 avx512_vnni\n"
ALDER_LAKE = "flags\t\t: fpu sse2 avx2 avx_vnni\n"
CORTEX_A72 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32\n"


@pytest.mark.parametrize(("text", "expected"), [(ZEN3, True), (ZEN4, False), (ALDER_LAKE, False), (CORTEX_A72, False)])
def test_avx2_without_vnni_saturates(text, expected):
    assert saturates(read_flags(text)) is expected


def test_auto_reads_this_machine(tmp_path):
    (tmp_path / "cpuinfo").write_text(ZEN3)
    assert wants_seven_bits(Choice.AUTO, cpuinfo=tmp_path / "cpuinfo") is True
    (tmp_path / "cpuinfo").write_text(ZEN4)
    assert wants_seven_bits(Choice.AUTO, cpuinfo=tmp_path / "cpuinfo") is False
    assert wants_seven_bits(Choice.ALWAYS, cpuinfo=tmp_path / "cpuinfo") is True
    assert wants_seven_bits(Choice.NEVER, cpuinfo=tmp_path / "cpuinfo") is False


def test_unknown_processor_gets_seven_bits(tmp_path):
    assert wants_seven_bits(Choice.AUTO, cpuinfo=tmp_path / "none") is True
