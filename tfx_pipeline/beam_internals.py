"""All uses of Apache Beam in this project beyond its public API.

tests/tfx_pipeline/test_beam_internals.py tests each of them.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from typing import Any

from apache_beam import pipeline
from apache_beam.options import pipeline_options
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
    # States and timers of a DoFn are derived from signatures about seven times.
    _call_once(userstate, "get_dofn_specs")
    # An argument parser is made about twice for each transform.
    _call_once(pipeline_options.PipelineOptions, "view_as")


def let_transform_learn_in_steps() -> None:
    """Lets TF-Transform analyze values that depend on other analyses.

    For each further step it copies a part of the graph, with fewer arguments
    than newer versions of Beam require. A second call has no effect.
    """
    init = pipeline.AppliedPTransform.__init__
    names = init.__code__.co_varnames[: init.__code__.co_argcount]
    if names[-2:] == ("environment_id", "annotations"):
        init.__defaults__ = (None, None)


def _call_once(owner: Any, name: str) -> None:
    """Caches the results of a function for each first argument."""
    call = getattr(owner, name)
    if hasattr(call, "__wrapped__"):
        return
    known: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    @functools.wraps(call)
    def remembered(first: Any, *rest: Any) -> Any:
        with contextlib.suppress(KeyError, TypeError):
            return known[first][rest]
        result = call(first, *rest)
        with contextlib.suppress(TypeError):  # Without hash or weak reference.
            known.setdefault(first, {})[rest] = result
        return result

    setattr(owner, name, remembered)
