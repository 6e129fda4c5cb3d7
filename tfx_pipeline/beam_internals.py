"""All that this project uses of Apache Beam beyond its public API.

Also of TFX, how it starts Beam. tests/tfx_pipeline/test_beam_internals.py holds
a test of each part.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from typing import Any

from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.worker import statecache
from apache_beam.transforms import userstate
from tfx.utils import dependency_utils


def spare_local_runs() -> None:
    """Takes work out of local runs that serves runs on a cluster.

    On little data it is half of the time of a Transform. A second call changes
    nothing.
    """
    # The states of an in-memory worker are in this process already. To cache
    # them, Beam weighs each against the globals of all modules.
    worker_handlers.StateCache = lambda max_weight: statecache.StateCache(0)
    _remember_dofn_specs()
    _send_no_package_to_local_workers()


def _send_no_package_to_local_workers() -> None:
    """TFX builds a source package of itself for each executor with Beam."""
    send = dependency_utils.make_beam_dependency_flags
    if hasattr(send, "__wrapped__"):
        return

    @functools.wraps(send)
    def send_to_cluster(beam_args: list[str]) -> list[str]:
        runner = StandardOptions(beam_args).runner
        if runner in (None, "DirectRunner"):
            return beam_args
        return send(beam_args)

    dependency_utils.make_beam_dependency_flags = send_to_cluster


def _remember_dofn_specs() -> None:
    """Lets Beam look once at the states and timers of each DoFn.

    Beam derives them from the signatures of its methods about seven times.
    """
    look = userstate.get_dofn_specs
    if hasattr(look, "__wrapped__"):
        return
    known: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    @functools.wraps(look)
    def remembered(dofn: Any) -> Any:
        with contextlib.suppress(KeyError, TypeError):
            return known[dofn]
        specs = look(dofn)
        with contextlib.suppress(TypeError):  # Without hash or weak reference.
            known[dofn] = specs
        return specs

    userstate.get_dofn_specs = remembered
