"""All that this project uses of Apache Beam beyond its public API.

tests/tfx_pipeline/test_beam_internals.py holds a test of each part.
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
    """Takes work out of local runs that serves runs on a cluster.

    On little data it is a third of the time of a Transform. A second call
    changes nothing.
    """
    # The states of an in-memory worker are in this process already. To cache
    # them, Beam weighs each against the globals of all modules.
    worker_handlers.StateCache = lambda max_weight: statecache.StateCache(0)
    _remember_dofn_specs()


def let_transform_learn_in_steps() -> None:
    """Lets TF-Transform learn from what it has learned, such as boundaries.

    It copies a part of the graph for each further step, with fewer arguments
    than a newer Beam asks for. A second call changes nothing.
    """
    init = pipeline.AppliedPTransform.__init__
    names = init.__code__.co_varnames[: init.__code__.co_argcount]
    if names[-2:] == ("environment_id", "annotations"):
        init.__defaults__ = (None, None)


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
