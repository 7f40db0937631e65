"""Validate the collected LoRAs and flatten them to weight vectors; refused ones go to a quarantine list."""

from w2wpp.lora.flattening import flatten_zoo
from w2wpp.run.stage import run_stage, stage_arguments


def main() -> None:
    args = stage_arguments(__doc__, zoo="data/zoo", out="data/weights")
    params = args.params.flatten
    flatten_zoo(args.zoo, args.out, params.people, params.max_quarantined, "flatten.max_quarantined")


if __name__ == "__main__":
    run_stage(main)
