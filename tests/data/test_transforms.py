"""Domains' transforms keep shape and type, treat each image for itself, and do what their names say."""

import numpy as np
import pytest

from fedmoe.references import known_names, load_plugin

NAMES = ("blur", "identity", "negative", "rotate180", "rotate270", "rotate90")


def images(seed: int, shape: tuple[int, ...] = (5, 3, 8, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def get(name: str):
    return load_plugin("transform", "fedmoe.data.transforms", name)


def test_every_transform_has_its_row() -> None:
    assert tuple(known_names("fedmoe.data.transforms")) == NAMES


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NAMES)
def test_each_image_for_itself(name: str, seed: int) -> None:
    x = images(seed)
    untouched = x.copy()
    out = get(name)(x)
    assert (out.shape, out.dtype) == (x.shape, np.uint8)
    assert np.array_equal(x, untouched)
    assert np.array_equal(out, np.concatenate([get(name)(x[index : index + 1]) for index in range(len(x))]))
    assert np.array_equal(out, x) == (name == "identity")


@pytest.mark.parametrize("seed", range(3))
def test_turns_and_negatives_undo_themselves(seed: int) -> None:
    x = images(seed)
    quarter, half, three = get("rotate90"), get("rotate180"), get("rotate270")
    assert np.array_equal(quarter(quarter(x)), half(x))
    assert np.array_equal(three(quarter(x)), x)
    assert np.array_equal(get("negative")(get("negative")(x)), x)
    # Counter-clockwise: what was at the right of the top row comes to the left of it.
    assert np.array_equal(quarter(x)[..., 0, 0], x[..., 0, -1])


@pytest.mark.parametrize("seed", range(3))
def test_blur_smooths_and_keeps_what_is_flat(seed: int) -> None:
    x = images(seed, (4, 1, 16, 16))
    assert get("blur")(x).std() < 0.6 * x.std()
    for value in (0, 77, 255):
        flat = np.full((1, 1, 9, 7), value, dtype=np.uint8)
        assert np.array_equal(get("blur")(flat), flat)
    point = np.zeros((1, 1, 9, 9), dtype=np.uint8)
    point[0, 0, 4, 4] = 255
    assert get("blur")(point)[0, 0, 4, 2:7].tolist() == [6, 24, 36, 24, 6]
