"""The files of the published weights2weights data set, in a folder or on the Hugging Face Hub."""

from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from w2wpp.diffusion.hub import offline
from w2wpp.files.errors import InputError
from w2wpp.files.tensor_files import printable

REPOSITORY = "Snapchat/weights2weights"
REVISION = "b47ccc88679f3250bb9879cdff5f22147bab7d8d"
SUBFOLDER = "weights_datasets/identities"
WEIGHTS, IDENTITIES, CONVERTED = "all_weights.pt", "identity_df.pt", "identity_df.csv"


@dataclass(frozen=True)
class W2WFiles:
    """The two used files: the weights, and the people of the rows, pickled or as CSV."""

    weights: Path
    identities: Path


def find_files(folder: str | Path | None = None, revision: str = REVISION) -> W2WFiles:
    """The data set's files in a folder, or else those of the Hub or its cache.

    Args:
        folder: holds the files, directly or in `SUBFOLDER` as a download does; identity_df.csv takes precedence over
            identity_df.pt. None for the Hub, to which no connection is made if HF_HUB_OFFLINE is set.
        revision: of the repository on the Hub.

    Raises:
        InputError: a file is missing and cannot be downloaded. The error names the file and where to put it.
    """
    if folder is None:
        return _on_the_hub(revision)
    folder = Path(folder)

    def find(*names: str) -> Path:
        for path in (place / name for name in names for place in (folder, folder / SUBFOLDER)):
            if path.is_file():
                return path
        raise InputError(printable(folder), names[-1], "no such file", _where_to_put(printable(folder), revision))

    return W2WFiles(find(WEIGHTS), find(CONVERTED, IDENTITIES))


def _on_the_hub(revision: str) -> W2WFiles:
    try:
        identities, weights = (
            Path(
                huggingface_hub.hf_hub_download(
                    REPOSITORY, f"{SUBFOLDER}/{name}", revision=revision, local_files_only=offline()
                )
            )
            for name in (IDENTITIES, WEIGHTS)
        )
    # The error of a broken connection depends on the HTTP library, which changes with the version of the client.
    except Exception as error:
        cause = "HF_HUB_OFFLINE is set" if offline() else printable(" ".join(str(error).split()) or repr(error))
        raise InputError(
            REPOSITORY,
            None,
            f"its files are not in the cache and cannot be downloaded ({cause})",
            _where_to_put("w2w", revision) + ", and give that folder as the source; or set "
            "HF_HUB_OFFLINE=0 to have them downloaded",
        ) from error
    return W2WFiles(weights, identities)


def _where_to_put(folder: str, revision: str) -> str:
    names = [f"{SUBFOLDER}/{name}" for name in (WEIGHTS, IDENTITIES)]
    return (
        f"Where there is a network, put {names[0]} (25.9 GB) and {names[1]} (39 MB) of revision {revision} of "
        f"{REPOSITORY} into the folder {folder}: `hf download {REPOSITORY} {' '.join(names)} --revision {revision} "
        f"--local-dir {folder}`"
    )
