"""Loads behavior stores from raw tables and served models."""
