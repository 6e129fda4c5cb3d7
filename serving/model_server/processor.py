"""Refuses a version that was exported for another kind of processor."""

import json
from pathlib import Path


def check_processor(path: str) -> None:
    """Check that this machine computes what the version's graph asks for.

    Raises:
        ValueError: if it was exported for CPUs with 8-bit dot products and
            this machine has none, or adds them inexactly.
    """
    manifest = Path(path) / "assets.extra" / "muse_export.json"
    if not manifest.is_file():
        return
    if json.loads(manifest.read_text(encoding="utf-8")).get("target") != "cpu":
        return
    from muse_keras.tensorflow import has_int8_products

    if not has_int8_products():
        raise ValueError(
            f'{path} was exported with `target` "cpu", for processors with '
            "8-bit dot products (AVX-512 VNNI or AVX-VNNI), which this machine "
            'lacks. Export it with "any".'
        )
