"""w2w++: a latent space over the weights of identity LoRAs."""

import os

# Read when transformers is first imported, which otherwise reports absent optional packages that nothing here needs.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
