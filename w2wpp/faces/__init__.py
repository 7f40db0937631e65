"""Faces on photos: finders, recognisers, alignment, photos of held-out people."""
