"""All that this project uses of Apache Beam beyond its public API.

tests/tfx_pipeline/test_beam_internals.py holds a test of it.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from typing import Any

from apache_beam.transforms import userstate


def remember_dofn_specs() -> None:
    """Lets Beam look once at the states and timers of each DoFn.

    Beam derives them from the signatures of its methods about seven times per
    DoFn, which is a fifth of the time of a Transform on little data.
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
