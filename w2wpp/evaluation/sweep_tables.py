"""Tables of the sweep: ID scores and paired gains of its rows."""

from collections.abc import Mapping

import pandas as pd

from w2wpp.evaluation import scoring
from w2wpp.evaluation.sweep_rows import LINEAR, PCA, Row

KEYS = ["variant", "latent_dim", "seed", "people"]
OVER = {"gain": PCA, "nonlinear": LINEAR}  # gains, and the variant that each is compared with


def compared(scores: Mapping[Row, Mapping[str, pd.Series]], bootstrap: int) -> pd.DataFrame:
    """One line per row and recogniser: ID score on the test people, and paired gains, each with its 95 % interval.

    Args:
        scores: ID scores by person, by row and recogniser. Gains are over the rows that `OVER` names, with the same
            latent dimension and number of people. They are empty if these rows are missing.
        bootstrap: resamples of the people.
    """
    lines = []
    for row, by_recognizer in scores.items():
        for recognizer, score in by_recognizer.items():
            line = {"recognizer": recognizer, **{key: getattr(row, key) for key in KEYS}}
            line |= _columns("id_score", scoring.bootstrap_mean(score.to_numpy(), n=bootstrap))
            for gain, variant in OVER.items():
                for other in scores:
                    if (other.variant, other.latent_dim, other.people) == (variant, row.latent_dim, row.people):
                        over = scores[other][recognizer][score.index].to_numpy()
                        line |= _columns(gain, scoring.paired_gain(score.to_numpy(), over, n=bootstrap))
            lines.append(line)
    return pd.DataFrame(lines).round(4).sort_values(["recognizer", *KEYS])


def _columns(name: str, estimate: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), estimate, strict=True))
