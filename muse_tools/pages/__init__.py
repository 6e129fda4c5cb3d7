"""Pages as typed blocks, rendered as Markdown and as self-contained HTML."""
