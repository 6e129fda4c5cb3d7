"""Objects that a module uses and must not save."""

from typing import Any


class Untracked:
    """Holds an object that a module must not save.

    A module tracks, and saves, what its attributes are; not what an attribute
    of an ordinary object is.

    Attributes:
        object: what is held.
    """

    def __init__(self, held: Any) -> None:
        self.object = held
