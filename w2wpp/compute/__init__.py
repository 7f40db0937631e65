"""Batched work that survives a kill: devices, progress, schedules, resumable batches, the Ray engine."""
