"""Pictures of one class of the `clusters` data, drawn many at a time.

Only sums, products, quotients, roots and roundings are taken, each exact to the last bit on any machine with IEEE
arithmetic, and no sines: the same seed gives the same bytes everywhere.
"""

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.clusters_recipe import Recipe

__all__ = ["draw"]

SIZE = 32
Floats = NDArray[np.float32]


def draw(recipe: Recipe, num: int, stream: np.random.Generator) -> NDArray[np.uint8]:
    """Returns `num` pictures of a class, uint8 `[num, 3, 32, 32]`.

    Every picture has its own place, size, turn, colours, light, noise, and one in four something in front.
    """
    figure, filling = _figure(recipe, num, stream)
    ground = _ground(recipe, num, stream)
    pixels = np.empty((num, 3, SIZE, SIZE), dtype=np.float32)
    ground_colour = _colours(recipe.background_hue, recipe.background_value, num, stream, spread=0.1)
    figure_colour = _colours(recipe.hue, 0.8, num, stream, spread=0.05)
    cover, cover_colour = _cover(num, stream)
    light = _light(num, stream)
    for channel in range(3):
        behind = ground_colour[channel] * ground
        before = figure_colour[channel] * filling
        mixed = behind + figure * (before - behind)
        pixels[:, channel] = (mixed + cover * (cover_colour[channel] - mixed)) * light
    pixels *= 255.0
    strength = _uniform(stream, num, 4.0, 18.0)
    pixels += strength[..., None] * _noise(pixels.shape, stream)
    result: NDArray[np.uint8] = np.rint(pixels.clip(0.0, 255.0)).astype(np.uint8)
    return result


def _uniform(stream: np.random.Generator, num: int, low: float, high: float) -> Floats:
    """Returns a number in [low, high) for each picture, shaped to meet its pixels."""
    return (low + (high - low) * stream.random(num)).astype(np.float32)[:, None, None]


def _grid() -> tuple[Floats, Floats]:
    """Returns the pixels' places, x and y in [-1, 1]."""
    line: Floats = ((np.arange(SIZE) + 0.5) * (2 / SIZE) - 1).astype(np.float32)
    return line[None, None, :], line[None, :, None]


def _wave(phase: Floats) -> Floats:
    """Returns a wave in [-1, 1] of period 1: two parabolas, within 0.06 of a sine."""
    saw = 2 * (phase - np.floor(phase)) - 1
    result: Floats = 4 * saw * (np.abs(saw) - 1)
    return result


def _turned(x: Floats, y: Floats, turns: Floats) -> tuple[Floats, Floats]:
    """Returns the places as seen by something turned by `turns`; the wave's direction is made one long again."""
    cosine, sine = _wave(turns + np.float32(0.25)), _wave(turns)
    length: Floats = np.sqrt(cosine * cosine + sine * sine)
    cosine, sine = cosine / length, sine / length
    return cosine * x + sine * y, cosine * y - sine * x


def _figure(recipe: Recipe, num: int, stream: np.random.Generator) -> tuple[Floats, Floats]:
    """Returns how far each pixel lies in the figure, in [0, 1], and the brightness of the filling there."""
    x, y = _grid()
    x = x - _uniform(stream, num, -0.28, 0.28)
    y = y - _uniform(stream, num, -0.28, 0.28)
    x, y = _turned(x, y, _uniform(stream, num, -0.09, 0.09))
    size = _uniform(stream, num, 0.5, 0.78)
    x, y = x / size, y / (size * np.float32(recipe.aspect) * _uniform(stream, num, 0.9, 1.1))
    radius = np.sqrt(x * x + y * y) + np.float32(1e-6)
    outline = 1 - np.float32(recipe.depth) * (1 + _cosine_of_multiple(x / radius, recipe.folds)) / 2
    inside: Floats = ((outline - radius) * size * np.float32(SIZE / 2) + np.float32(0.5)).clip(0.0, 1.0)
    u, _ = _turned(x, y, np.full((1, 1, 1), recipe.slant, dtype=np.float32))
    stripes = _wave(u * np.float32(recipe.pitch / 2) + _uniform(stream, num, 0.0, 1.0))
    return inside, 0.8 + _uniform(stream, num, 0.12, 0.3) * stripes


def _cosine_of_multiple(cosine: Floats, folds: int) -> Floats:
    """Returns cos(n a) from cos(a), by Chebyshev's recurrence."""
    before, now = np.ones_like(cosine), cosine
    for _ in range(folds - 1):
        before, now = now, 2 * cosine * now - before
    return now


def _ground(recipe: Recipe, num: int, stream: np.random.Generator) -> Floats:
    """Returns the brightness of the background, about 0.8 in the mean."""
    x, y = _grid()
    x = x - _uniform(stream, num, -1.0, 1.0)
    y = y - _uniform(stream, num, -1.0, 1.0)
    pitch = np.float32(recipe.background_pitch / 2) * _uniform(stream, num, 0.85, 1.15)
    slant = np.float32(recipe.background_slant) + _uniform(stream, num, -0.03, 0.03)
    u, v = _turned(x * pitch, y * pitch, slant)
    return 0.8 + _uniform(stream, num, 0.1, 0.25) * _texture(recipe.background, u, v)


def _texture(background: str, u: Floats, v: Floats) -> Floats:
    """Returns a texture in about [-1, 1] that has period 1 along `u`."""
    if background == "bars":
        return _wave(u)
    if background == "checks":
        return 1.5 * _wave(u) * _wave(v)
    if background == "rings":
        return _wave(np.sqrt(u * u + v * v))
    if background == "waves":
        return _wave(u + 0.35 * _wave(v))
    return 0.5 * _wave(0.2 * u)


def _colours(hue: float, value: float, num: int, stream: np.random.Generator, *, spread: float) -> tuple[Floats, ...]:
    """Returns red, green and blue in [0, 1] of `num` shades about a hue (in turns) and a brightness."""
    hues = np.float32(hue) + _uniform(stream, num, -spread, spread)
    values = np.float32(value) * _uniform(stream, num, 0.6, 1.35)
    saturation = _uniform(stream, num, 0.2, 0.9)
    channels = []
    for offset in (0.0, 2 / 3, 1 / 3):
        place = hues + np.float32(offset)
        ramp = (np.abs((place - np.floor(place)) * 6 - 3) - 1).clip(0.0, 1.0)
        channels.append(values * (1 - saturation + saturation * ramp))
    return tuple(channels)


def _cover(num: int, stream: np.random.Generator) -> tuple[Floats, tuple[Floats, ...]]:
    """Returns how far each pixel is hidden by a bar in front, 0 for three pictures in four, and the bar's colours."""
    x, y = _grid()
    u, _ = _turned(x, y, _uniform(stream, num, 0.0, 1.0))
    away = np.abs(u - _uniform(stream, num, -0.7, 0.7))
    there = (stream.random(num) < 0.25).astype(np.float32)[:, None, None]
    bar = ((_uniform(stream, num, 0.08, 0.2) - away) * np.float32(SIZE / 2) + np.float32(0.5)).clip(0.0, 1.0)
    grey = _uniform(stream, num, 0.1, 0.9)
    return there * bar, (grey, grey, grey)


def _light(num: int, stream: np.random.Generator) -> Floats:
    """Returns the light on each pixel, a slope about 1."""
    x, y = _grid()
    return 1 + _uniform(stream, num, -0.25, 0.25) * x + _uniform(stream, num, -0.25, 0.25) * y


def _noise(shape: tuple[int, ...], stream: np.random.Generator) -> Floats:
    """Returns noise of mean 0 and deviation about 1: the sum of two even draws, which no machine rounds otherwise."""
    draws = stream.integers(0, 256, size=(2, *shape), dtype=np.uint8).astype(np.float32)
    result: Floats = (draws[0] + draws[1] - 255) * np.float32(1 / 104.5)
    return result
