import subprocess
import sys

import pytest

from tests.harness import ROOT


@pytest.mark.parametrize("program", ["edge_agent.cli run", "cloud_service.cli serve"])
def test_collector_passes_over_what_a_program_has_imported(program):
    module, command = program.split()
    code = (
        f"import gc; from {module} import app; from shared.errors import SettingsError\n"
        f"try: app([{command!r}, '--config', '/nowhere/settings.toml'], standalone_mode=False)\n"
        "except SettingsError: print(gc.get_freeze_count() / len(gc.get_objects()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert float(done.stdout) > 5
