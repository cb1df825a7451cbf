"""Checkpoints with Gemma 3 4B's real geometry and random weights; see README.md."""
