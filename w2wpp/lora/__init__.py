"""A LoRA as a weight vector: layout, per-sample adapters, packs and shards of many."""
