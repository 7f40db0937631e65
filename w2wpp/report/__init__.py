"""Figures, picture sheets and the page of the report."""
