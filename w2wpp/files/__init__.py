"""Atomic file writes, and errors that name file, key and remedy."""
