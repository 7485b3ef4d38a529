"""What makes a class of the `clusters` data: what its family shares, and what is its own.

A class is `family * 5 + member`. The family decides colours and background, the member the figure's outline, its
filling and a shade of the family's colour. Recipes are fixed: the seed moves samples, never classes, so that figures
of several seeds stand on the same problem.
"""

from dataclasses import dataclass

__all__ = ["BACKGROUNDS", "FAMILIES", "MEMBERS", "Recipe", "recipe"]

FAMILIES = 20
MEMBERS = 5
BACKGROUNDS = ("bars", "checks", "rings", "waves", "plain")


@dataclass(frozen=True)
class Recipe:
    """One class.

    Attributes:
        background: texture behind the figure, one of `BACKGROUNDS`.
        background_hue: hue of the background, in turns.
        background_value: brightness of the background, in [0, 1].
        background_pitch: periods of the background texture across the image.
        background_slant: direction of its lines, in turns.
        hue: hue of the figure, in turns.
        folds: the outline's n-fold symmetry.
        depth: how far its arms stand out, as a share of the radius.
        aspect: the figure's height for its width.
        pitch: periods of the filling across the figure.
        slant: direction of the filling's lines in the figure, in turns.
    """

    background: str
    background_hue: float
    background_value: float
    background_pitch: float
    background_slant: float
    hue: float
    folds: int
    depth: float
    aspect: float
    pitch: float
    slant: float


def recipe(label: int) -> Recipe:
    """Returns the recipe of class `label`, in [0, 100).

    Steps that share no factor with the number of choices spread the choices over the families, so that neither the
    background nor the outline gives the class away alone.

    >>> recipe(0).background == recipe(4).background
    True
    """
    family, member = divmod(label, MEMBERS)
    return Recipe(
        background=BACKGROUNDS[family % 5],
        background_hue=(family * 0.15) % 1.0,
        background_value=(0.30, 0.55, 0.75, 0.45)[family // 5],
        background_pitch=(2.0, 3.5, 5.0)[family % 3],
        background_slant=(0.0, 0.125, 0.25, 0.375)[family % 4],
        hue=(family * 0.15 + (0.30, 0.5, 0.65)[family % 3] + 0.03 * (member - 2)) % 1.0,
        folds=(2, 3, 4, 5, 6)[(member * 2 + family) % 5],
        depth=(0.16, 0.3, 0.42)[(member + 2 * family) % 3],
        aspect=(0.62, 1.0, 0.78, 1.0)[(member * 3 + family) % 4],
        pitch=(1.5, 3.0, 4.5)[(member * 2 + family) % 3],
        slant=(0.0, 0.25, 0.125)[(member + family) % 3],
    )
