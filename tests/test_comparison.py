"""Spaces are compared person by person, and only where they are equal."""

import numpy as np
import pandas as pd
import pytest

from w2wpp.evaluation.comparison import gains, inequality, ladder, of_measure, outside_gains, read_measures
from w2wpp.files.errors import InputError
from w2wpp.files.storage import write_csv


@pytest.fixture
def table() -> pd.DataFrame:
    """Twenty people by four rungs; the VAE is 0.1 ahead of PCA in what is obeyed, and 0.2 behind in the plain score."""
    rng = np.random.default_rng(0)
    common, rows = rng.normal(size=20), []
    for rung, obeyed, plain in (("pca", 0.0, 0.0), ("linear", 0.05, 0.0), ("vae", 0.1, -0.2)):
        for person in range(20):
            noise = 0.01 * rng.normal(size=2)
            rows.append(
                {
                    "person": f"p{person}",
                    "rung": f"{rung} inversion",
                    "id_obeyed": common[person] + obeyed + noise[0],
                    "id_score": common[person] + plain + noise[1],
                }
            )
    rows += [{"person": f"p{person}", "rung": "pca reconstruction", "id_score": 0.0} for person in range(20)]
    return pd.DataFrame(rows)


def test_gains_are_paired_and_under_the_name_of_their_measure(table):
    found = gains(table, "pca", 500)
    assert found["people"] == 20
    assert found["gain"]["mean"] == pytest.approx(-0.2, abs=0.01) and found["people_better_with_vae"] == 0
    assert found["id_obeyed"]["gain"]["low"] > 0.09 and found["id_obeyed"]["gain"]["high"] < 0.11
    assert found["id_obeyed"]["gain_over_linear"]["mean"] == pytest.approx(0.05, abs=0.01)
    assert found["id_obeyed"]["people_better_with_vae"] == 1
    assert "copying" not in found


def test_people_whom_a_rung_lacks_are_left_out(table):
    table.loc[(table["person"] == "p3") & (table["rung"] == "vae inversion"), "id_obeyed"] = np.nan
    assert "p3" not in of_measure(table, "id_obeyed").index and len(of_measure(table, "id_obeyed")) == 19
    assert list(of_measure(table, "id_obeyed")) == ["linear inversion", "pca inversion", "vae inversion"]
    assert len(of_measure(table, "id_score")) == 20 and "pca reconstruction" in of_measure(table, "id_score")


def test_the_ladder_has_every_rung_of_every_measure(table):
    rows = pd.DataFrame(ladder(table, 200)).set_index(["measure", "rung"])
    assert set(rows.index) == {
        *(("id_obeyed", f"{space} inversion") for space in ("pca", "linear", "vae")),
        *(("id_score", f"{space} inversion") for space in ("pca", "linear", "vae")),
        ("id_score", "pca reconstruction"),
    }
    row = rows.loc["id_obeyed", "vae inversion"]
    assert row["low"] < row["mean"] < row["high"]


def test_tables_of_several_files_are_one(table, tmp_path):
    half = table["rung"] == "vae inversion"
    write_csv(tmp_path / "a.csv", table[half])
    write_csv(tmp_path / "b.csv", table[~half])
    again = read_measures([tmp_path / "a.csv", tmp_path / "b.csv"])
    pd.testing.assert_frame_equal(of_measure(again, "id_obeyed"), of_measure(table, "id_obeyed"), check_dtype=False)
    with pytest.raises(InputError, match="rung"):
        write_csv(tmp_path / "c.csv", table.drop(columns="rung"))
        read_measures([tmp_path / "c.csv"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"vae": {"dimensions": 512}}, "512 dimensions of vae against 64 of pca"),
        ({"linear": {"dimensions": 32}}, "32 dimensions of linear against 64 of pca"),
        ({"linear": {"people": 500}}, "500 people of linear against 2000 of pca"),
        ({"pca": {"within_person_ridge": None}}, "1.0 within_person_ridge of vae against None of pca"),
    ],
)
def test_unequal_spaces_are_not_compared(changes, reason):
    spaces = ["pca", "linear", "vae"]
    same = {"dimensions": 64, "people": 2000, "within_person_ridge": 1.0}
    assert inequality({space: same | changes.get(space, {}) for space in spaces}, spaces) == reason


def test_unknown_dimensions_are_an_error():
    for unknown in ({}, {"dimensions": None}):
        with pytest.raises(InputError, match=r"metrics/linear\.json: latent_dim"):
            inequality(
                {"pca": {"dimensions": 64}, "vae": {"dimensions": 64}, "linear": unknown}, ["pca", "linear", "vae"]
            )


def test_less_copying_is_better():
    table = pd.DataFrame({"person": ["a", "b", "c", "d"], "id_score": 0.1, "copying": [0.1, 0.2, 0.3, 0.9]})
    rungs = [table.assign(rung=f"{space} inversion") for space in ("vae", "linear")]
    rungs.append(table.assign(rung="pca inversion", copying=[0.2, 0.3, 0.4, 0.5]))
    assert gains(pd.concat(rungs), "pca", 100)["copying"]["people_better_with_vae"] == 0.75


def test_gains_of_pictures_from_outside_are_by_style(table):
    others = pd.DataFrame({"person": [f"p{n}" for n in range(20)], "rung": "dreambooth", "id_score": -9.0})
    styles = pd.concat([pd.concat([table, others]).assign(style=style) for style in ("print", "drawing")])
    first = (styles["style"] == "print") & (styles["rung"] == "vae inversion")
    styles.loc[first, "id_score"] += 0.5
    found = outside_gains(styles, "pca", 500, unequal=False)
    assert found["print"]["gain"]["mean"] == pytest.approx(0.3, abs=0.01)
    assert found["drawing"]["gain"]["mean"] == pytest.approx(-0.2, abs=0.01)
    assert found["drawing"]["gain_over_dreambooth"]["low"] > 7
    assert outside_gains(styles, "pca", 500, unequal=True)["print"].keys() == {"gain_over_dreambooth"}
