import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from sklearn.metrics import roc_auc_score

from w2wpp.evaluation import scoring

X, Y = np.array([1.0, 0.0]), np.array([0.0, 1.0])
ZERO, ZERO5 = np.zeros(2), np.zeros(5)


def crowd(seed, n=4, g=3, e=5, share=0.7):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, g, e)) + 3 * rng.normal(size=(n, 1, e))
    found = rng.random((n, g)) < share
    found[:, 0] = True
    vectors[~found] = 0
    return vectors, found


def test_center_removes_the_mean_and_normalises():
    out = scoring.center(np.array([[3.0, 1.0], [1.0, 1.0]]), np.array([1.0, 1.0]))
    np.testing.assert_allclose(out, [[1, 0], [0, 0]])


def test_id_scores_by_hand():
    generated = np.array([[X, Y], [Y, ZERO]])
    generated_found = np.array([[True, True], [True, False]])
    real = np.array([[X, X], [Y, -Y]])
    real_found = np.array([[True, True], [True, False]])
    scores = scoring.id_scores(generated, generated_found, real, real_found, ZERO, floor=-0.2)
    np.testing.assert_allclose(scores, [(1 + 0) / 2, (1 - 0.2) / 2])


def test_id_cosines_are_what_id_scores_average():
    generated, found = crowd(1)
    real, real_found = crowd(2, g=4)
    cosines = scoring.id_cosines(generated, found, real, real_found, ZERO5, floor=-0.1)
    assert (cosines[~found] == -0.1).all()
    units = real / np.maximum(np.linalg.norm(real, axis=-1, keepdims=True), 1e-12)
    by_hand = [
        generated[0, 0] @ photo / np.linalg.norm(generated[0, 0])
        for photo, face in zip(units[0], real_found[0], strict=True)
        if face
    ]
    assert cosines[0, 0] == pytest.approx(np.mean(by_hand))
    scores = scoring.id_scores(generated, found, real, real_found, ZERO5, floor=-0.1)
    np.testing.assert_allclose(scores, cosines.mean(1))


def test_id_obeyed_counts_disobedience_and_strangers_as_the_floor():
    cosines = np.array([[0.8, 0.6, -0.3, 0.5]])
    obeyed = np.array([[True, False, True, True]])
    assert scoring.id_obeyed(cosines, obeyed, 0.1)[0] == pytest.approx((0.8 + 0.1 + 0.1 + 0.5) / 4)
    assert scoring.id_obeyed(cosines, np.zeros((1, 4), bool), 0.1)[0] == pytest.approx(0.1)
    with pytest.raises(ValueError):
        scoring.id_obeyed(cosines, obeyed[:, :2], 0.1)


def test_copying_is_one_for_the_photo_and_nothing_for_other_photos():
    rng = np.random.default_rng(0)
    photo, real = rng.normal(size=(3, 5)), rng.normal(size=(3, 4, 5))
    found, one = np.ones((3, 4), bool), np.ones((3, 1), bool)
    np.testing.assert_allclose(scoring.copying(photo[:, None], one, photo, real, found, ZERO5), 1)
    np.testing.assert_allclose(scoring.copying(real, found, photo, real, found, ZERO5), 0, atol=1e-12)
    np.testing.assert_allclose(scoring.copying(-photo[:, None], one, photo, real, found, ZERO5), 0)
    assert (scoring.copying(photo[:, None], ~one, photo, real, found, ZERO5) == 0).all()


def test_copying_by_hand():
    # The photo is X, the other photo at 0.6 of it, the picture at 0.8: half of what is left is copied.
    real, picture = np.array([[[0.6, 0.8]]]), np.array([[[0.8, 0.6]]])
    found = np.ones((1, 1), bool)
    assert scoring.copying(picture, found, X[None], real, found, ZERO)[0] == pytest.approx(0.5)


def test_spread_is_that_of_all_pairs():
    vectors, _ = crowd(3)
    units = vectors[0] + 1
    units = units / np.linalg.norm(units, axis=-1, keepdims=True)
    by_hand = np.mean([1 - units[i] @ units[j] for i in range(3) for j in range(3) if i != j])
    assert scoring.spread(vectors, -np.ones(5))[0] == pytest.approx(by_hand)
    assert scoring.spread(np.repeat(vectors[:, :1], 3, 1), ZERO5)[0] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError):
        scoring.spread(vectors[:, :1], ZERO5)


def test_id_scores_average_cosines_over_the_real_photos():
    found = np.ones((1, 2), bool)
    assert scoring.id_scores(X[None, None], found[:, :1], np.array([[X, Y]]), found, ZERO, 0.0)[0] == pytest.approx(0.5)


@given(st.integers(0, 10**6), st.floats(-1, 1))
def test_nobody_found_scores_the_floor(seed, floor):
    real, found = crowd(seed)
    nobody = np.zeros_like(found)
    np.testing.assert_allclose(scoring.id_scores(real * 0, nobody, real, found, np.zeros(5), floor), floor)
    assert scoring.tar_at_far(real * 0, nobody, real, found, np.zeros(5)) == 0


@given(st.integers(0, 10**6))
@settings(max_examples=50)
def test_scores_are_bounded_and_ignore_the_order(seed):
    generated, generated_found = crowd(seed)
    real, found = crowd(seed + 1)
    mean = np.random.default_rng(seed).normal(size=5)
    rng = np.random.default_rng(seed)
    people, pictures = rng.permutation(4), rng.permutation(3)
    shuffle = lambda x: x[people][:, pictures]  # noqa: E731
    scores = scoring.id_scores(generated, generated_found, real, found, mean, 0.1)
    again = scoring.id_scores(*map(shuffle, (generated, generated_found, real, found)), mean, 0.1)
    np.testing.assert_allclose(again, scores[people], atol=1e-12)
    assert (abs(scores) <= 1).all()
    tar = scoring.tar_at_far(generated, generated_found, real, found, mean, 0.1)
    assert 0 <= tar <= 1
    assert scoring.tar_at_far(*map(shuffle, (generated, generated_found, real, found)), mean, 0.1) == tar
    found[0] = True
    floor, ceiling = scoring.real_floor_and_ceiling(real, found, mean)
    assert -1 <= floor <= 1 and -1 <= ceiling <= 1
    assert scoring.real_floor_and_ceiling(shuffle(real), shuffle(found), mean) == pytest.approx((floor, ceiling))
    auc = scoring.verification_auc(real, found, mean)
    assert scoring.verification_auc(shuffle(real), shuffle(found), mean) == pytest.approx(auc)


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_floor_ceiling_and_auc_match_every_pair_counted(seed):
    real, found = crowd(seed)
    found[1] = True
    units, person = scoring.center(real[found], np.ones(5)), np.nonzero(found)[0]
    i, j = np.triu_indices(len(units), 1)
    cosine, same = (units[i] * units[j]).sum(1), person[i] == person[j]
    floor, ceiling = scoring.real_floor_and_ceiling(real, found, np.ones(5))
    assert (floor, ceiling) == pytest.approx((cosine[~same].mean(), cosine[same].mean()))
    assert scoring.verification_auc(real, found, np.ones(5)) == pytest.approx(roc_auc_score(same, cosine))


def test_pictures_without_a_face_are_never_read():
    real, found = crowd(3, share=0.5)
    garbage = real.copy()
    garbage[~found] = np.nan
    expected = scoring.id_scores(real, found, real, found, np.zeros(5), 0.0)
    np.testing.assert_array_equal(scoring.id_scores(garbage, found, garbage, found, np.zeros(5), 0.0), expected)


def test_nan_in_a_found_face_is_refused():
    real, found = crowd(3)
    real[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        scoring.id_scores(real, found, real, found, np.zeros(5), 0.0)


def test_a_person_without_real_faces_is_refused():
    real, found = crowd(3)
    hidden = found.copy()
    hidden[2] = False
    for call in (
        lambda: scoring.id_scores(real, found, real, hidden, np.zeros(5), 0.0),
        lambda: scoring.tar_at_far(real, found, real, hidden, np.zeros(5)),
    ):
        with pytest.raises(ValueError, match="no face on any real photo of 1 people, the first being number 2"):
            call()


def test_one_person_or_nobody_has_no_floor():
    real, found = crowd(3)
    one, one_found = real[:1], np.ones((1, 3), bool)
    for people, seen in ((one, one_found), (real, np.zeros_like(found))):
        with pytest.raises(ValueError, match="two people"):
            scoring.real_floor_and_ceiling(people, seen, np.zeros(5))
        with pytest.raises(ValueError, match="two people"):
            scoring.verification_auc(people, seen, np.zeros(5))
    with pytest.raises(ValueError, match="at least two"):
        scoring.tar_at_far(one, one_found, one, one_found, np.zeros(5))
    with pytest.raises(ValueError, match="ceiling"):
        scoring.real_floor_and_ceiling(real[:, :1], found[:, :1], np.zeros(5))


def test_tar_at_far_counts_missing_faces_as_rejected():
    real = np.array([[X, X], [Y, Y]])
    seen = np.ones((2, 2), bool)
    assert scoring.tar_at_far(real, seen, real, seen, ZERO) == 1
    missing = seen.copy()
    missing[0, 0] = False
    assert scoring.tar_at_far(real, missing, real, seen, ZERO) == 0.75


def test_tar_of_indistinguishable_people_is_zero():
    same, seen = np.broadcast_to(X, (3, 2, 2)), np.ones((3, 2), bool)
    assert scoring.tar_at_far(same, seen, same, seen, ZERO) == 0


def test_normalised():
    assert scoring.normalised(0.3, 0.1, 0.5) == pytest.approx(0.5)
    np.testing.assert_allclose(scoring.normalised(np.array([0.1, 0.5]), 0.1, 0.5), [0, 1])
    with pytest.raises(ValueError, match="above floor"):
        scoring.normalised(0.3, 0.5, 0.5)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30), st.integers(0, 100))
@settings(max_examples=40)
def test_bootstrap_interval_lies_within_the_values(values, seed):
    mean, low, high = scoring.bootstrap_mean(values, n=200, seed=seed)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert mean == pytest.approx(np.mean(values))
    assert (mean, low, high) == scoring.bootstrap_mean(values, n=200, seed=seed)


def test_bootstrap_width_is_that_of_the_normal_theory():
    values = np.random.default_rng(0).normal(size=400)
    _, low, high = scoring.bootstrap_mean(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    for bad in ([1.0], [], [1.0, np.nan]):
        with pytest.raises(ValueError):
            scoring.bootstrap_mean(bad)


def test_paired_gain_ignores_what_people_share():
    people = np.random.default_rng(0).normal(size=50)
    assert scoring.paired_gain(people + 0.1, people) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="same people"):
        scoring.paired_gain(people, people[1:])


@pytest.mark.parametrize("count", [6, 60])  # fewer and more samples than dimensions
def test_frechet_distance_matches_the_matrix_square_root(count):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(count, 8)), rng.normal(size=(count + 3, 8)) @ rng.normal(size=(8, 8)) + 1
    cx, cy = np.cov(x.T), np.cov(y.T)
    root = sqrtm(cx)
    cross = np.real(np.trace(sqrtm(root @ cy @ root)))
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cx) + np.trace(cy) - 2 * cross
    assert scoring.frechet_distance(x, y) == pytest.approx(expected, rel=1e-4)
    assert scoring.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert scoring.frechet_distance(x, x + 2) == pytest.approx(8 * 4)
    with pytest.raises(ValueError, match="two embeddings"):
        scoring.frechet_distance(x[:1], y)


def test_diversity_and_novelty_are_of_the_mean_of_each_persons_faces():
    vectors = np.array([[X, X], [Y, -Y], [X, X]])
    found = np.array([[True, True], [True, False], [False, False]])
    scores = scoring.diversity_and_novelty(vectors, found, np.array([X, -Y]), ZERO)
    assert scores == {"diversity": pytest.approx(1), "novelty": pytest.approx((0 + 1) / 2)}
    assert scoring.diversity_and_novelty(vectors[:1], found[:1], np.array([X]), ZERO) == {"diversity": 0, "novelty": 0}


def test_mean_pairwise_distance():
    assert scoring.mean_pairwise_distance(np.array([X, X, X]), ZERO) == pytest.approx(0)
    assert scoring.mean_pairwise_distance(np.array([X, Y, -X]), ZERO) == pytest.approx((1 + 2 + 1) / 3)
    with pytest.raises(ValueError, match="at least two"):
        scoring.mean_pairwise_distance(X[None], ZERO)


def test_evenness():
    line = np.arange(5.0)[:, None] * X
    seen = np.ones(5, bool)
    assert scoring.evenness(line, seen) == pytest.approx(1)
    assert scoring.evenness(np.array([ZERO, ZERO, X]), seen[:3]) == pytest.approx(0.5)
    assert scoring.evenness(line, np.array([True, True, False, True, True])) == pytest.approx((1 + 2 + 1) / 6)
    assert scoring.evenness(line, np.array([True, False, False, False, True])) == 0
    assert scoring.evenness(line * 0, seen) == 0
    with pytest.raises(ValueError, match="path"):
        scoring.evenness(line[:2], seen[:2])
