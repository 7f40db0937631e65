"""ID scores of held-out people, and how well pictures obey their prompts."""
