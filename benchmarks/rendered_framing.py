"""Measure how photos of the rendered world are framed, by the landmarks that photos from elsewhere are framed by.

Prints the constants of `RENDERED` in w2wpp/faces/frames.py, and how far the squares that are cut by them lie from where
photos of other people are framed; minutes on one core.
"""

import argparse

import numpy as np

from w2wpp.faces.dlib import fit_similarity
from w2wpp.faces.finders import load_landmarks
from w2wpp.run.stage import run_stage
from w2wpp.world.drawing import draw
from w2wpp.world.populations import sample_people

SIZE, PHOTOS = 64, 4
CORNERS = (-0.5 - 0.5j, 0.5 - 0.5j, -0.5 + 0.5j, 0.5 + 0.5j)


def landmarks(group: str, people: int) -> np.ndarray:
    """Dlib's landmarks, complex [n, 5], in sides of the photo from its middle, of all photos where a face is found."""
    find, _ = load_landmarks("dlib")
    photos = draw(sample_people(0, group, people, PHOTOS), SIZE, group).flatten(0, 1).numpy()
    found = [faces[0] for faces in map(find, photos) if faces]
    return np.array(found) / SIZE - (0.5 + 0.5j)


def similarity_square(points: np.ndarray) -> tuple[float, complex]:
    """Side and centre of the photo in the ArcFace frame, in the median over photos."""
    _, known = load_landmarks("dlib")
    frames = np.array([fit_similarity(known, each) for each in points])
    centres = -frames[:, 1] / frames[:, 0]
    return float(np.median(1 / abs(frames[:, 0]))), complex(np.median(centres.real), np.median(centres.imag))


def weights(points: np.ndarray) -> np.ndarray:
    """Complex [2, 5], by which landmarks tell centre and side of a photo, wherever it lies: least squares.

    Those of the centre have the sum 1 and those of the side 0, so that both move, turn and grow with the face.
    """
    mean = points.mean(1, keepdims=True)
    apart = (points - mean)[:, :4]  # the fifth is minus the sum of these
    solved = [np.linalg.lstsq(apart, target, rcond=None)[0] for target in (-mean[:, 0], np.ones(len(points), complex))]
    padded = np.pad(solved, ((0, 0), (0, 1)))
    return padded - padded.mean(1, keepdims=True) + np.array([[0.2], [0.0]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=400, help="zoo people that are measured")
    parser.add_argument("--others", type=int, default=32, help="validation people that the result is tried on")
    args = parser.parse_args()
    measured, others = landmarks("zoo", args.people), landmarks("validation", args.others)
    square, centre = similarity_square(measured)
    by_dlib = weights(measured)
    print(f"square {square:.1f}, centre {centre:.1f}, by_dlib:")
    for pair in by_dlib.T:
        print("    " + ", ".join(f"{each:.3f}" for each in pair))
    _, known = load_landmarks("dlib")
    frames = np.array([fit_similarity(known, each) for each in others])
    for name, (middle, side) in {
        "similarity": (frames @ (centre, 1), frames[:, 0] * square),
        "by_dlib": by_dlib @ others.T,
    }.items():
        corners = np.max([abs(middle + side * corner - corner) for corner in CORNERS], 0)
        print(
            f"{name}: the farthest corner is off by {np.median(corners):.3f} sides in the median, by "
            f"{corners.max():.3f} at most; standard deviations: centre {middle.real.std():.3f} and "
            f"{middle.imag.std():.3f}, side {abs(side).std():.3f}, angle {np.angle(side).std():.3f}"
        )


if __name__ == "__main__":
    run_stage(main)
