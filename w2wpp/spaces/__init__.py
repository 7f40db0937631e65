"""Latent spaces over weight vectors, with one interface."""
