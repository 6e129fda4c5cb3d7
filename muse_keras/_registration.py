"""The names of all classes for Keras, without an import of Keras or of them."""

import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_PACKAGE = "muse_keras"
# A test compares them with what Keras knows when all is imported.
CLASSES = """
    Calibration CategorySearch CombinedExactSearchUnit CosineSearch
    CosineTripletLoss DIN Dice DualSearch EST ESTBlock ETA EmbeddingSpread
    FullAttentionUnit FullDIN GSUTopK GroupAUC HashSamplingUnit IdCosineSearch
    IdEmbedding IdentitySignal ImpressionCrossentropy InfoNCE LogRange MISS MUSE
    MemoryBank MultimodalEmbeddingTable NewestSearch PublishedMUSE ResidualMLP
    RowSparseAdam SCL SCLTower SDIM SIMHard SIMSoft ScoreTower SearchRanker
    SemanticAwareTargetAttention SemanticExactSearchUnit ShortTermInterest
    SimHashSearch SimTier TWIN TargetAttention TargetAttentionSearch
    TwoLogitTower
""".split()


def register_names_with_keras() -> None:
    """Register the names now, or as soon as Keras is imported."""
    if "keras" in sys.modules:
        _register_names()
    else:
        sys.meta_path.insert(0, _KerasFinder)


class _Later:
    """Stands in Keras's register for a class until its attributes are read."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the class, registered by its import."""
        if name.startswith("__"):
            raise AttributeError(name)
        import keras

        importlib.import_module(f"{_PACKAGE}.compat")
        return getattr(keras.saving.get_custom_objects()[self._key], name)


def _register_names() -> None:
    """Let Keras find every class by its registered name, imported or not."""
    import keras

    known = keras.saving.get_custom_objects()
    for name in CLASSES:
        key = f"{_PACKAGE}>{name}"
        known.setdefault(key, _Later(key))


class _KerasFinder:
    """Finds Keras as Python does, and registers the names once it is there.

    To import Keras for that alone would take seconds, and a data job that
    writes an item table has none.
    """

    @classmethod
    def find_spec(
        cls, fullname: str, path: Any = None, target: Any = None
    ) -> ModuleSpec | None:
        """Return the spec of Keras, and None for everything else."""
        if fullname != "keras":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register_names()
                if _KerasFinder in sys.meta_path:
                    sys.meta_path.remove(_KerasFinder)

            setattr(spec.loader, "exec_module", run_and_register)  # noqa: B010
        return spec
