"""The base model and its loss: pipeline, denoising, DreamBooth training."""
