"""Check every key of params.yaml, also those that no stage about to run would read, and the files that they name."""

from w2wpp.run.stage import run_stage, stage_arguments


def main() -> None:
    params = stage_arguments(__doc__).params
    if params.collect.source != "zoo":
        # Loads most of the library, which the world that is shipped does not need here.
        from w2wpp.run.preflight import check_sources

        check_sources(params)


if __name__ == "__main__":
    run_stage(main)
