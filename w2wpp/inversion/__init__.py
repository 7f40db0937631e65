"""One photo of a person to a latent: photo encoder and search."""
