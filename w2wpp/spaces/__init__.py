"""Latent spaces over weight vectors behind one interface."""
