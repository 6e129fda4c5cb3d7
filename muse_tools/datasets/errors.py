"""The exception that all data modules raise."""

from __future__ import annotations


class DataError(ValueError):
    """Data that cannot be used: a code, a message and a hint in one line."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        self.code = code
        self.message = " ".join(str(message).split())
        self.hint = " ".join(str(hint).split())
        super().__init__(f"[{code}] {self.message} Fix: {self.hint}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Pickles all three arguments, because Beam sends errors around."""
        return type(self), (self.code, self.message, self.hint)
