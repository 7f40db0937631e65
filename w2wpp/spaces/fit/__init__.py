"""How each space is fitted to a zoo."""
