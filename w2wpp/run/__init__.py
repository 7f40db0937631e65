"""What runs a stage or a command: settings, profiles, checks before a run."""
