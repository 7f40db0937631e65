"""The one error for bad input: a file, a parameter, a missing package."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class InputError(Exception):
    """A bad input, told in one line: `<where>: <key>: <reason>. <remedy>`.

    Args:
        where: the file, stage or component that holds the bad input, e.g. `params.yaml` or a LoRA's path.
        key: the parameter or tensor at fault; None when the whole of `where` is.
        reason: what is wrong, without a final full stop; addresses of objects in it are left out, as they differ from
            run to run.
        remedy: what to do about it; None when the reason says it all.
    """

    def __init__(self, where: str, key: str | None, reason: str, remedy: str | None = None) -> None:
        reason = _ADDRESS.sub("", reason)
        super().__init__(where, key, reason, remedy)
        self.where = where
        self.key = key
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        place = self.where if self.key is None else f"{self.where}: {self.key}"
        line = f"{place}: {self.reason.rstrip('.')}." if self.remedy else f"{place}: {self.reason}"
        return " ".join(f"{line} {self.remedy or ''}".split())


class ArgumentError(InputError):
    """A bad argument, in the library's own terms; stages and commands add where the user gave it.

    Args:
        owner: the settings class whose field is at fault, such as `VAEParams`; None for a function's argument.
        key: the field or argument.
        reason, remedy: as of `InputError`.
    """

    def __init__(self, owner: type | None, key: str, reason: str, remedy: str | None = None) -> None:
        super().__init__(owner.__name__ if owner else "argument", key, reason, remedy)
        self.args = owner, key, self.reason, remedy
        self.owner = owner
