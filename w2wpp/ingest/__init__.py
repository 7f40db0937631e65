"""LoRAs of other people: files, folders and the published weights2weights data."""
