"""The embedded world: invented people, rendered photos and the models trained on them."""
