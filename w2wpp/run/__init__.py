"""The frame of stages and commands: settings, profiles, checks before a run."""
