"""The program of the processes that tests/test_vae_training.py launches: training on the files of one folder.

python tests/launched_vae.py FOLDER NAME ... [--broken NAME]
"""

import argparse
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

from accelerate import Accelerator

from w2wpp.compute.schedules import step_generator
from w2wpp.files.storage import read_json, read_pack, write_json
from w2wpp.spaces import vae_training as vae
from w2wpp.spaces.registry import load_space
from w2wpp.spaces.vae_training import VAEParams


def break_at_third_epoch(seed: int, epoch: int):
    if epoch == 2:
        raise KeyboardInterrupt
    return step_generator(seed, epoch)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+", help="of settings FOLDER/NAME.json")
    parser.add_argument("--broken", help="the settings to train with twice, the first time up to the third epoch")
    args = parser.parse_args()
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    basis, (coordinates, _) = load_space(args.folder / "basis"), read_pack(args.folder / "coordinates")

    def train(settings: str, name: str) -> None:
        params, checkpoint = VAEParams(**read_json(args.folder / f"{settings}.json")), args.folder / f"{name}.pt"
        space, history = vae.train_vae(coordinates, basis, params, checkpoint, accelerator)
        space.save(args.folder / f"{name}-{accelerator.process_index}.safetensors")
        write_json(
            args.folder / f"{name}-{accelerator.process_index}.json",
            {"history": history, "processes": accelerator.num_processes},
        )

    with patch.object(vae, "CHECKPOINT_SECONDS", 0.0):
        for name in args.names:
            train(name, name)
        if args.broken:
            with patch.object(vae, "step_generator", break_at_third_epoch), suppress(KeyboardInterrupt):
                train(args.broken, "broken")
            accelerator.wait_for_everyone()  # until the main process has written the checkpoint
            train(args.broken, "broken")
    accelerator.end_training()


if __name__ == "__main__":
    main()
