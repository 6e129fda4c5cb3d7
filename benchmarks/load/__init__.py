"""Load on the servers: who asks what, when, and what came of it."""
