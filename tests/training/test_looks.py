"""Laws of looks: an image's features are its own, what turns, negates or blurs it moves them; a slow reference."""

import numpy as np
import pytest
import torch

from fedmoe.training import looks as module
from fedmoe.training.looks import Looks

SHAPE = (2, 9, 8)


def looks_of(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Looks:
    return Looks(torch.full((shape[0],), 120.0), torch.full((shape[0],), 60.0), shape, filters=5, seed=seed)


def images(seed: int, num: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, *shape), dtype=np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_they_are_the_filters_answers_cut_at_zero_and_averaged_over_quarters(seed: int) -> None:
    looks, x = looks_of((2, 6, 6), seed), images(seed, 3, (2, 6, 6))
    weights = looks.weight_FCHW.numpy().astype(np.float64)
    found = np.zeros((3, 5, 2, 2))
    for image, filter_, row, column in np.ndindex(3, 5, 4, 4):  # 4 x 4 places of a filter; each quarter has 2 x 2
        window = (x[image, :, row : row + 3, column : column + 3] - 120.0) / 60
        found[image, filter_, row // 2, column // 2] += max(0.0, (window * weights[filter_]).sum()) / 4
    np.testing.assert_allclose(looks.of(x), found.reshape(3, -1), rtol=1e-4, atol=1e-4)


def test_an_image_looks_the_same_whoever_is_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, x = looks_of(), images(0, 60)
    whole, rows = looks.of(x), [3, 19, 20, 59]
    monkeypatch.setattr(module, "VALUES", 20 * 5 * 9 * 8)  # 20 at a time
    np.testing.assert_allclose(looks.of(x), whole, atol=1e-5)
    np.testing.assert_allclose(looks.of(x[rows]), whole[rows], atol=1e-5)
    assert whole.dtype == np.float32
    assert looks.of(x[:0]).shape == (0, looks.width)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 7), (1, 2, 3), (1, 3, 4), (1, 8, 8), (3, 32, 32)])
def test_an_image_of_any_size_has_looks(shape: tuple[int, int, int]) -> None:
    looks = Looks(torch.full((shape[0],), 120.0), torch.full((shape[0],), 60.0), shape)
    found = looks.of(images(1, 2, shape))
    assert found.shape == (2, looks.width)
    assert found.std() > 0


def test_all_nodes_draw_the_same_filters_and_another_seed_others() -> None:
    assert torch.equal(looks_of().weight_FCHW, looks_of().weight_FCHW)
    assert not torch.equal(looks_of().weight_FCHW, looks_of(seed=1).weight_FCHW)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("change", ["turned", "negative", "blurred"])
def test_what_changes_the_look_of_images_moves_their_mean(seed: int, change: str) -> None:
    ramp = np.linspace(0, 120, 9)[None, None, :, None]  # darker above than below
    x = np.clip(images(seed, 300) / 2 + ramp, 0, 255).astype(np.uint8)
    before = Looks(torch.full((2,), 120.0), torch.full((2,), 60.0), SHAPE).of(x)
    blurred = (x[:, :, :, :-1].astype(int) + x[:, :, :, 1:]) // 2
    changed = {
        "turned": x[:, :, ::-1, ::-1],
        "negative": 255 - x,
        "blurred": np.concatenate([blurred, blurred[..., -1:]], axis=3).astype(np.uint8),
    }[change]
    after = Looks(torch.full((2,), 120.0), torch.full((2,), 60.0), SHAPE).of(changed)
    apart = np.abs(after.mean(axis=0) - before.mean(axis=0)) / (before.std(axis=0) / np.sqrt(len(x)))
    again = Looks(torch.full((2,), 120.0), torch.full((2,), 60.0), SHAPE).of(x[::-1])
    np.testing.assert_allclose(again.mean(axis=0), before.mean(axis=0), rtol=1e-4)
    assert apart.max() > 10, "standard errors"
