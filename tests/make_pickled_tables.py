"""Add the tables of pickled_tables.zip, pickled by the running pandas: make_pickled_tables.py ZIP."""

import pickle
import sys
import zipfile

import numpy as np
import pandas as pd

FILES = ["000001.jpg", "000002.jpg", "000004.jpg", "000010.jpg"]
BALD, MALE, IDENTITY = np.array([-1, 1, 1, -1]), np.array([1, -1, -1, 1]), np.array([5, 6, 5, 10177])
TABLES = {
    # As the published identity_df.pt: whole numbers in one block, rows named by file.
    "published": pd.DataFrame({"Bald": BALD, "Male": MALE, "identity": IDENTITY}, index=pd.Index(FILES, name="file")),
    # Several dtypes, out of order, rows that are only counted.
    "mixed": pd.DataFrame(
        {
            "Bald": BALD.astype("int8"),
            "file": FILES,
            "Male": [1.0, -1.0, np.nan, 1.0],
            "identity": IDENTITY.astype(object),
            "seen": [True, False, True, True],
        }
    ),
    # Rows of a larger table, still with their numbers there.
    "filtered": pd.DataFrame({"Bald": BALD, "Male": MALE, "identity": IDENTITY}, index=[3, 5, 6, 9]),
}

if __name__ == "__main__":
    with zipfile.ZipFile(sys.argv[1], "a", zipfile.ZIP_DEFLATED) as archive:
        for name, table in TABLES.items():
            for protocol in (2, pickle.HIGHEST_PROTOCOL):
                title = f"{name}-pandas-{pd.__version__}-numpy-{np.__version__}-protocol-{protocol}.pickle"
                archive.writestr(zipfile.ZipInfo(title), pickle.dumps(table, protocol=protocol))
