"""Code in a pickle never runs."""

import os
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from pickled import CONTAINERS, refused


class Bomb:
    """Runs a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def shell(trap):
    return Bomb(os.system, f"touch {trap}")


def evaluated(trap):
    return Bomb(eval, f"open({str(trap)!r}, 'w')")


class Stateful:
    """Runs a function when its state is set, though nothing but its class is named first."""

    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return pd.DataFrame, (), {"_mgr": evaluated(self.trap), "_typ": "dataframe"}


PAYLOADS = {
    "os.system": shell,
    "eval": evaluated,
    "exec": lambda trap: Bomb(exec, f"open({str(trap)!r}, 'w')"),
    "open": lambda trap: Bomb(open, str(trap), "w"),
    "list": lambda trap: [1, {"a": (shell(trap),)}],
    "inner argument": lambda trap: Bomb(pd.DataFrame, {"a": [shell(trap)]}),
    "state": Stateful,
    "element": lambda trap: pd.DataFrame({"a": [1, shell(trap)]}),
    "label": lambda trap: pd.DataFrame({"a": [1]}, index=[shell(trap)]),
    "attrs": lambda trap: with_attrs(evaluated(trap)),
    "getattr": lambda trap: Bomb(getattr, Bomb(__import__, "os"), "system"),
    "read_pickle": lambda trap: Bomb(pd.read_pickle, str(other_pickle(trap))),
    "read_csv": lambda trap: Bomb(pd.read_csv, "/etc/hostname"),
    "read_table": lambda trap: Bomb(pd.read_table, str(trap)),
    "eval of pandas": lambda trap: Bomb(pd.eval, f"@open({str(trap)!r}, 'w')"),
    "numpy.load": lambda trap: Bomb(np.load, str(other_pickle(trap)), None, True),
    "numpy.fromfile": lambda trap: Bomb(np.fromfile, "/etc/hostname"),
    "numpy.memmap": lambda trap: Bomb(np.memmap, str(trap), "u1", "w+", 0, (1,)),
    "numpy.savetxt": lambda trap: Bomb(np.savetxt, str(trap), []),
    "torch.load": lambda trap: Bomb(torch.load, str(trap)),
    "to_pickle": lambda trap: Bomb(pd.to_pickle, 1, str(trap)),
}


def with_attrs(value):
    table = pd.DataFrame()
    table.attrs = {"a": value}
    return table


def other_pickle(trap):
    path = trap.with_name("other")
    path.write_bytes(pickle.dumps(shell(trap)))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("payload", PAYLOADS)
def test_payloads_never_run(tmp_path, payload, protocol):
    trap = tmp_path / "trap"
    pickled = pickle.dumps(PAYLOADS[payload](trap), protocol=protocol)
    for container in CONTAINERS.values():
        refused(tmp_path / "x.pt", container(pickled))
        assert not trap.exists()


def test_the_payloads_would_run(tmp_path):
    for payload in ("os.system", "eval", "exec", "open", "element", "attrs", "state", "read_pickle", "numpy.memmap"):
        trap = tmp_path / payload
        try:
            pickle.loads(pickle.dumps(PAYLOADS[payload](trap), protocol=2))
        except Exception:
            assert payload in ("state", "open")
        assert trap.exists(), payload
