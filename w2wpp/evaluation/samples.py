"""How well sampled people stand for real ones: their distribution in a recogniser's space, and what they look like."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.distance import cdist

from w2wpp.evaluation import scoring
from w2wpp.faces.embeddings import Embeddings
from w2wpp.files.storage import read_pack, write_pack

NEIGHBOURS = 3
STRANGERS = 2000  # at most, among whom a threshold is set: pairs are many
LEAST_SHARE = 0.01  # of the population, which deviations are divided by


@dataclass(frozen=True)
class RealPeople:
    """What sampled people are compared with.

    Attributes:
        vectors: embeddings [m, e] of one photo of each of m people, faces only; of pictures that their LoRAs draw,
            where there are no photos.
        attributes: share of the population that has each attribute; none where nothing can read them off pictures.
    """

    vectors: np.ndarray
    attributes: dict[str, float]

    def compare(self, seen: Embeddings, attributes: Mapping[str, float]) -> dict:
        """Metrics of pictures [n] of n people, of whom such shares have each attribute.

        Returns:
            What `distribution` gives; and where attributes are known, their shares and "attribute_error".
        """
        metrics = distribution(seen, self.vectors)
        if not self.attributes:
            return metrics
        error = attribute_error(attributes, self.attributes)
        return metrics | {"attribute_error": error, "attributes": dict(attributes)}

    def save(self, path: Path) -> None:
        """Write to one safetensors file."""
        write_pack(path, {"vectors": torch.from_numpy(self.vectors)}, {"attributes": self.attributes})

    @classmethod
    def load(cls, path: Path) -> "RealPeople":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing or corrupt, or of something else.
        """
        tensors, meta = read_pack(path, ["vectors"])
        return cls(tensors["vectors"].numpy(), meta["attributes"])


def precision_and_recall(generated: np.ndarray, real: np.ndarray, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991).

    A set's manifold is all that lies within reach of one of its members, as far as its k-th nearest neighbour is.

    Args:
        generated: embeddings [n, e] with n > k, faces only.
        real: [m, e] with m > k, faces only.
        neighbours: k.

    Returns:
        (precision, recall): the share of generated embeddings in the manifold of the real ones, and the reverse.

    Raises:
        ValueError: a set has k members or fewer.
    """
    if min(len(generated), len(real)) <= neighbours:
        raise ValueError(f"{neighbours} neighbours need more members than {len(generated)} and {len(real)}")

    def covered(points: np.ndarray, members: np.ndarray) -> float:
        reach = np.partition(cdist(members, members), neighbours, axis=1)[:, neighbours]  # place 0 is the member itself
        return float((cdist(points, members) <= reach).any(1).mean())

    return covered(generated, real), covered(real, generated)


def distribution(seen: Embeddings, real: np.ndarray) -> dict[str, float]:
    """How pictures [n] of n people are distributed, beside real people's embeddings [m, e], one of each.

    Sets of equal size are compared, the leading ones of both.

    Returns:
        "frechet" in squared embedding units, "precision" and "recall". Where no more than `NEIGHBOURS` pictures have a
        face: what all would score who look like the average person, that is the real people's variance, and 0.
    """
    faces = seen.vectors[seen.found]
    equal = min(len(faces), len(real))
    if equal <= NEIGHBOURS:
        return {"frechet": float(real.var(0, ddof=1).sum()), "precision": 0.0, "recall": 0.0}
    faces, real = faces[:equal], real[:equal]
    precision, recall = precision_and_recall(faces, real)
    return {"frechet": scoring.frechet_distance(faces, real), "precision": precision, "recall": recall}


def kinship(
    sampled: Embeddings, donors: Embeddings, zoo: np.ndarray, reference_mean: np.ndarray, far: float = 0.01
) -> float:
    """How often sampled people pass for the zoo people whom they are drawn from, so that copies cannot win.

    Args:
        sampled: of pictures [n] of n people.
        donors: of pictures [n] of the zoo person nearest to each.
        zoo: embeddings [z >= 2, e] of different people, faces only, of whom a share `far` of the pairs pass as one.
        reference_mean: [e].

    Returns:
        The share of the n people, in [0, 1].
    """
    units = scoring.center(zoo[:STRANGERS], reference_mean)
    first, second = np.triu_indices(len(units), 1)
    threshold = np.quantile((units @ units.T)[first, second], 1 - far)
    both = sampled.found & donors.found
    pairs = [scoring.center(each.vectors[both], reference_mean) for each in (sampled, donors)]
    return float((np.einsum("ne,ne->n", *pairs) > threshold).sum() / len(both))


def attribute_error(shares: Mapping[str, float], population: Mapping[str, float]) -> float:
    """Mean over attributes of |share - the population's share| / the population's share."""
    return float(np.mean([abs(shares[name] - share) / max(share, LEAST_SHARE) for name, share in population.items()]))
