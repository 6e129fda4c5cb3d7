"""Size of the user cache."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class UserCacheConfig:
    """Size of the user cache.

    Attributes:
        users: maximum number of users, a multiple of `ways`; 0 = no cache.
        ways: number of slots in which a user may be stored.
        max_length: maximum number of behaviors of a user; the newest are kept.
        expire_seconds: age at which an entry expires; 0 = never.

    Raises:
        ValueError: if a number is out of range.
    """

    users: int = 64
    ways: int = 4
    max_length: int = 100_000
    expire_seconds: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("users", 0, 1 << 24),
            ("ways", 1, 64),
            ("max_length", 1, 1 << 24),
            ("expire_seconds", 0, 1 << 31),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or not least <= value <= most:
                raise ValueError(
                    f"`{name}` must be an integer from {least} to {most}. "
                    f"Received: {name}={value!r}"
                )
        if self.users % self.ways:
            raise ValueError(
                "`users` must be a multiple of `ways`. Received: "
                f"users={self.users}, ways={self.ways}"
            )
