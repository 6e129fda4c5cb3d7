"""Command line of the project, one typer application per module."""
