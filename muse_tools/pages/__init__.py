"""Pages as typed blocks, drawn as Markdown and as self-contained HTML."""
