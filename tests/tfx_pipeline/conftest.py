"""Settings of the pipeline's tests."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def local_runs_are_spared() -> None:
    """As in every run of the pipeline, which is faster by it."""
    from tfx_pipeline import beam_internals, tfx_internals

    beam_internals.spare_local_runs()
    tfx_internals.send_no_package_to_workers()
