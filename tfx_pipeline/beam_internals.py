"""All uses of Apache Beam in this project beyond its public API.

tests/tfx_pipeline/test_beam_internals.py tests each of them.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from typing import Any

from apache_beam import pipeline
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.worker import statecache
from apache_beam.transforms import userstate


def spare_local_runs() -> None:
    """Removes work from local runs that only runs on a cluster need.

    With little data, this work takes a third of the time of a Transform. A
    second call has no effect.
    """
    # An in-memory worker has its states in this process already. For a cache,
    # Beam would measure the size of each one, with the globals of all modules.
    worker_handlers.StateCache = lambda max_weight: statecache.StateCache(0)
    _remember_dofn_specs()


def let_transform_learn_in_steps() -> None:
    """Lets TF-Transform analyze values that depend on other analyses.

    For each further step it copies a part of the graph, with fewer arguments
    than newer versions of Beam require. A second call has no effect.
    """
    init = pipeline.AppliedPTransform.__init__
    names = init.__code__.co_varnames[: init.__code__.co_argcount]
    if names[-2:] == ("environment_id", "annotations"):
        init.__defaults__ = (None, None)


def _remember_dofn_specs() -> None:
    """Caches the states and timers of each DoFn.

    Otherwise Beam derives them from method signatures about seven times.
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
