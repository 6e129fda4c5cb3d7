"""PyTorch: matrix product and top-K, and one row per impression."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import numpy as np
import torch

from benchmarks import remote

K = 50

_state: dict[str, Any] = {}


def load(folder: str, threads: int) -> None:
    """Read the history as float32 unit vectors."""
    torch.set_num_threads(threads)
    _state["folder"] = pathlib.Path(folder)
    _state["history"] = _unit(_read("history"))


def prepare() -> None:
    """Read the candidates as float32 unit vectors."""
    _state["candidates"] = _unit(_read("candidates"))


@torch.inference_mode()
def search() -> float:
    """Search one history; return milliseconds."""
    start = time.perf_counter()
    scores = _state["candidates"] @ _state["history"].T
    _state["found"] = torch.topk(scores, K).indices
    return 1e3 * (time.perf_counter() - start)


def load_batch(folder: str, threads: int) -> None:
    """Lay out a batch as its data loader gives it: a row per impression."""
    torch.set_num_threads(threads)
    _state["folder"] = pathlib.Path(folder)
    candidates = _read("candidates")
    per_request = candidates.shape[1]
    _state["candidates"] = candidates.flatten(0, 1)
    _state["history"] = _read("history").repeat_interleave(per_request, 0)


@torch.inference_mode()
def search_batch() -> float:
    """Normalize, multiply and choose row by row; return milliseconds."""
    start = time.perf_counter()
    candidates = _unit(_state["candidates"])
    history = _unit(_state["history"])
    scores = torch.bmm(history, candidates.unsqueeze(2)).squeeze(2)
    _state["found"] = torch.topk(scores, K).indices
    return 1e3 * (time.perf_counter() - start)


def found() -> str:
    """Return a file of the positions found last."""
    path = _state["folder"] / "found_torch.npy"
    np.save(path, _state["found"].numpy())
    return str(path)


def _read(name: str) -> torch.Tensor:
    codes = np.load(_state["folder"] / f"{name}.npy")
    return torch.from_numpy(codes).float()


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)


if __name__ == "__main__":
    remote.serve(
        {
            "load": load,
            "prepare": prepare,
            "search": search,
            "load_batch": load_batch,
            "search_batch": search_batch,
            "found": found,
        }
    )
