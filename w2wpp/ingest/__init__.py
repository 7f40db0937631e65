"""LoRAs from elsewhere: files, folders and the published weights2weights data."""
