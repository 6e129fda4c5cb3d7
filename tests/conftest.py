"""Settings of the whole test suite.

`KERAS_BACKEND` chooses the backend (default: TensorFlow). Tests marked `tf`
need TensorFlow and are left out on another backend.
"""

import gc
import os

import hypothesis
import pytest

# A machine may be busy: no test depends on its time.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
# Before anything imports Keras: not the choice in ~/.keras/keras.json.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# TensorFlow's remarks about the processor say nothing about a test.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_report_header() -> str:
    return f"Keras backend: {os.environ['KERAS_BACKEND']}"


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        return
    left_out = [item for item in items if item.get_closest_marker("tf")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish() -> None:
    """Leaves what is imported out of garbage collections, which are fewer.

    They take a twentieth of the time of graphs and models otherwise.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
