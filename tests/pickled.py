"""Pickled tables and the files that contain them, for tests."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from w2wpp.files.errors import InputError
from w2wpp.ingest.pickled_frame import read_frame

with zipfile.ZipFile(Path(__file__).with_name("pickled_tables.zip")) as archive:
    PICKLES = {name: archive.read(name) for name in archive.namelist()}
SOUND = PICKLES["published-pandas-2.0.3-numpy-1.24.4-protocol-2.pickle"]
LATEST = PICKLES["mixed-pandas-3.1.1-numpy-2.4.6-protocol-5.pickle"]


def expected(table):
    """The result of `read_frame` for a table: row labels become the first column, unless they only count."""
    return table if isinstance(table.index, pd.RangeIndex) else table.reset_index()


def assert_same(actual, wanted):
    assert list(actual.columns) == list(wanted.columns)
    assert isinstance(actual.index, pd.RangeIndex)
    for name in wanted:
        values = [value.item() if isinstance(value, np.generic) else value for value in wanted[name]]
        assert repr(actual[name].tolist()) == repr(values), name


def in_zip(pickled):
    """torch.save's file of an object with this pickle."""
    template, file = io.BytesIO(), io.BytesIO()
    torch.save(0, template)
    with zipfile.ZipFile(template) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("/data.pkl") else old.read(name))
    return file.getvalue()


def in_legacy(pickled):
    """The same, of torch's older format."""
    file = io.BytesIO()
    torch.save(0, file, _use_new_zipfile_serialization=False)
    return file.getvalue().replace(pickle.dumps(0, 2), pickled, 1)


CONTAINERS = {"plain": bytes, "zip": in_zip, "legacy": in_legacy}


def refused(path, content=None):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_frame(path, "Convert it")
    assert caught.value.where == str(path)
    assert caught.value.remedy
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()
    return caught.value
