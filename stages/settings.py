"""Check every key of params.yaml, including those that no pending stage reads, and the files that they name."""

from w2wpp.run.stage import run_stage, stage_arguments


def main() -> None:
    params = stage_arguments(__doc__).params
    if params.collect.source != "zoo":
        # This import loads most of the library, which the shipped world does not need here.
        from w2wpp.run.preflight import check_sources

        check_sources(params)


if __name__ == "__main__":
    run_stage(main)
