"""ID scores of held-out people and how well prompts are obeyed."""
