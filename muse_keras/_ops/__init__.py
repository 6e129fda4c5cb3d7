"""Tensor functions shared by the layers; not part of the public interface."""

__all__: list[str] = []
