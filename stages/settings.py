"""Check every key of params.yaml, also those that no stage about to run would read."""

from w2wpp.runtime import run_stage, stage_arguments

if __name__ == "__main__":
    run_stage(lambda: stage_arguments(__doc__))
