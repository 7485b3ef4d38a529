"""Laws of fingerprints: labels are taken out of the embedding, what inputs look like stays in."""

import numpy as np
import pytest

from fedmoe.data.fingerprints import ROWS, Fingerprints

CLASSES, WIDTH = 4, 7


def embedded(seed: int, num: int = 900) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns embeddings, logits and labels: an embedding is its class's centre, and noise; logits are sure of it."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, num)
    centre = rng.standard_normal((CLASSES, WIDTH)) * 5
    embeddings = centre[y] + rng.standard_normal((num, WIDTH))
    return embeddings.astype(np.float32), (8 * np.eye(CLASSES)[y]).astype(np.float32), y


@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_has_nothing_to_do_with_the_beliefs_on_the_public_split(seed: int) -> None:
    embeddings, logits, _ = embedded(seed)
    logits = logits + np.random.default_rng(seed).standard_normal(logits.shape).astype(np.float32)
    public = np.random.default_rng(seed).choice(len(embeddings), 500, replace=False)
    left = Fingerprints.fitted(embeddings[public], logits[public]).of(embeddings[public], logits[public])
    shares = np.exp(logits[public]) / np.exp(logits[public]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares.T @ left / len(public), 0, atol=1e-4)
    np.testing.assert_allclose(left.mean(axis=0), 0, atol=1e-4)  # shares sum to 1, so the mean is explained as well


@pytest.mark.parametrize("seed", range(3))
def test_labels_move_the_mean_embedding_but_not_the_mean_fingerprint_and_a_shift_moves_both(seed: int) -> None:
    embeddings, logits, y = embedded(seed)
    prints = Fingerprints.fitted(embeddings[::2], logits[::2])
    client = np.flatnonzero((y == 0) | (y == 1))
    left = prints.of(embeddings[client], logits[client])
    assert np.linalg.norm(embeddings[client].mean(axis=0) - embeddings.mean(axis=0)) > 2
    assert np.linalg.norm(left.mean(axis=0)) < 0.4
    moved = prints.of(embeddings[client] + 1, logits[client])
    np.testing.assert_allclose(moved - left, 1, atol=1e-4)


def test_a_sample_has_the_same_fingerprint_whoever_is_beside_it() -> None:
    embeddings, logits, _ = embedded(0, ROWS + 100)
    prints = Fingerprints.fitted(embeddings[:200], logits[:200])
    whole, rows = prints.of(embeddings, logits), np.array([5, ROWS - 1, ROWS, ROWS + 99])
    assert whole.dtype == np.float32
    np.testing.assert_allclose(prints.of(embeddings[rows], logits[rows]), whole[rows], atol=1e-5)
    assert prints.of(embeddings[:0], logits[:0]).shape == (0, WIDTH)
