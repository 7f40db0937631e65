"""Quarantine: of strangers' files what is refused is listed with its reason, and the run goes on, up to a share."""

from collections.abc import Sequence
from pathlib import Path

from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_csv, write_csv

QUARANTINE = "quarantine.csv"
# The columns of the list, by what is refused: LoRAs, files of LoRAs, rows of a matrix of LoRAs, photos.
LORAS = ("person", "lora", "key", "reason")
FILES = (*LORAS, "remedy")
ROWS = ("person", "row", "key", "reason")
PHOTOS = ("person", "file", "reason", "remedy")


def refusal(error: InputError, columns: Sequence[str], **place: object) -> dict:
    """A row of the list: `place` says whose file was refused and which, `error` why."""
    row = {**place, "key": error.key, "reason": error.reason, "remedy": error.remedy}
    return {column: row[column] for column in columns}


def first_refused(refused: Sequence[dict], *columns: str) -> str:
    """What was refused in one phrase, for a message: how much, and the first by these columns and its reason."""
    first = ", ".join(filter(None, (refused[0][column] for column in columns)))
    return f"the first of {len(refused)} rejected, {first}: {refused[0]['reason']}"


def write_quarantine(folder: Path, refused: Sequence[dict], columns: Sequence[str]) -> Path:
    """Write the list as quarantine.csv of a folder, without a row where nothing was refused."""
    import pandas as pd  # which reading a space does without

    write_csv(folder / QUARANTINE, pd.DataFrame(list(refused), columns=list(columns)))
    return folder / QUARANTINE


def read_quarantine(folder: Path, columns: Sequence[str]) -> list[dict]:
    """The rows of a folder's quarantine.csv, none where there is no such file.

    Raises:
        InputError: it is unreadable, or lacks a column.
    """
    path = folder / QUARANTINE
    return read_csv(path, columns).to_dict("records") if path.exists() else []


def check_share(refused: Sequence[dict], total: int, most: float, listed: Path, setting: str) -> None:
    """Refuse LoRAs of which too many were refused; the error has the reason of the first, and its remedy if known.

    Args:
        total: how many LoRAs there were.
        most: share of them that may be refused.
        listed: where they are listed.
        setting: the name of `most` in the error.

    Raises:
        InputError: naming the first: more were.
    """
    if len(refused) <= most * total:
        return
    first = refused[0]
    remedy = f"{first['remedy']}. " if first.get("remedy") else ""
    raise InputError(
        first["lora"],
        first["key"] or None,
        f"{len(refused)} of {total} LoRAs are unusable, the first ({first['person']}): {first['reason']}",
        f"{remedy}{listed} lists them. Mend them or collect them again, or raise {setting}, which is {most}",
    )
