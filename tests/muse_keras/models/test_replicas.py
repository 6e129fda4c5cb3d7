"""Training of item embeddings on several devices.

That of rankers is in tests/tfx_pipeline/training/test_trainer.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.tf

ROOT = Path(__file__).parents[3]
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What one and two replicas hold: one process for all, it takes long."""
    pytest.importorskip("tensorflow", reason="replicas are its own")
    folder = tmp_path_factory.mktemp("replicas")
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(SUPPORT)]),
    }
    program = Path(__file__).with_name("train_on_replicas.py")
    result = subprocess.run(
        [sys.executable, str(program), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return [np.load(folder / f"{replicas}.npz") for replicas in (1, 2)]


def test_embeddings_train_like_on_one_and_replicas_hold_the_same_banks(trained):
    one, two = trained
    assert sorted(one.files) == sorted(two.files)
    assert sum("bank" in name for name in one.files) == 6
    for name in one.files:
        if " " in name:  # A weight: a copy for each replica.
            assert len(two[name]) == 2
            np.testing.assert_array_equal(
                two[name][0], two[name][1], err_msg=name
            )
        expected = np.broadcast_to(one[name], two[name].shape)
        np.testing.assert_allclose(
            two[name], expected, rtol=1e-4, atol=2e-4, err_msg=name
        )
    assert one["loss"][-1] < one["loss"][0]
