"""Files as MIND publishes them; readers click on categories they have read."""

from __future__ import annotations

import pathlib

import numpy as np

CATEGORIES = ["sports", "finance", "travel", "music"]


def topics(news: int = 160) -> np.ndarray:
    """Returns the category of each article."""
    return np.random.default_rng(0).integers(len(CATEGORIES), size=news)


def write(root: pathlib.Path, users: int = 150, news: int = 160) -> None:
    """Writes the folders ``train`` and ``dev``; some readers are in both."""
    rng = np.random.default_rng(1)
    topic = topics(news)
    articles = [
        f"N{n}\t{CATEGORIES[t]}\t{CATEGORIES[t]}{n % 3}\tAll on "
        f'{CATEGORIES[t]} no {n}, today\'s "best"\tAbstract\thttp://n/{n}\t[]\t[]'
        for n, t in enumerate(topic)
    ]
    for split, day in (("train", "11/11/2019"), ("dev", "11/15/2019")):
        folder = root / split
        folder.mkdir(parents=True)
        lines = []
        for user in range(users):
            likes = user % len(CATEGORIES)
            liked = np.flatnonzero(topic == likes)
            history = rng.choice(liked, rng.integers(0, 9))
            for _ in range(2):
                shown = rng.choice(news, 6, replace=False)
                clicks = rng.random(6) < np.where(
                    topic[shown] == likes, 0.8, 0.1
                )
                pairs = " ".join(
                    f"N{n}-{int(c)}" for n, c in zip(shown, clicks, strict=True)
                )
                lines.append(
                    f"{len(lines) + 1}\tU{user}\t{day} "
                    f"{rng.integers(1, 12)}:05:58 {'AP'[user % 2]}M\t"
                    f"{' '.join(f'N{n}' for n in history)}\t{pairs}"
                )
        (folder / "behaviors.tsv").write_text("\n".join(lines) + "\n")
        (folder / "news.tsv").write_text("\n".join(articles) + "\n")
