"""When requests come in, for an open loop."""

from __future__ import annotations

import numpy as np


def poisson(
    rate: float, seconds: float, generator: np.random.Generator
) -> np.ndarray:
    """Draw the arrivals of many independent users.

    Args:
        rate: arrivals per second, on average.
        seconds: how long.
        generator: where chance comes from.

    Returns:
        float64 (N,), seconds after the start, ascending; N is random.

    Raises:
        ValueError: if `rate` or `seconds` is not above 0.
    """
    if not rate > 0 or not seconds > 0:
        raise ValueError(
            "`rate` and `seconds` must be above 0. "
            f"Received: rate={rate}, seconds={seconds}"
        )
    # Given their number, the arrivals of a Poisson process are uniform.
    count = generator.poisson(rate * seconds)
    return np.sort(generator.uniform(0.0, seconds, count))
