"""What a process frees it has again, without the kernel's clearing it once more."""

from __future__ import annotations

import subprocess
import sys

import pytest

ROUNDS = """
import resource, sys
from stm.model.allocator import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit(3)
import numpy as np

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    activations = [np.full(2**25, 1.0, np.float32) for _ in range(20)]  # 2.5 GiB, as a training step has
    del activations
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults_of_a_step()
print(faults_of_a_step())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's malloc that is told")
@pytest.mark.slow
def test_a_second_step_of_gigabytes_touches_no_fresh_page():
    def faults(setting: str) -> int:
        run = subprocess.run(
            [sys.executable, "-c", ROUNDS, setting], capture_output=True, text=True, timeout=120
        )
        if run.returncode == 3:
            pytest.skip("this C library has no mallopt")
        assert run.returncode == 0, run.stderr
        return int(run.stdout)

    assert faults("kept") < 1000
    assert faults("as usual") > 1000, "the test sees nothing: freed memory stays anyway"
