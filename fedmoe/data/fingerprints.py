"""Fingerprints: what of an image's looks the common expert's belief in the labels does not explain.

Shapes: N samples, D features, C classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

__all__ = ["Fingerprints"]

ROWS = 4096


@dataclass(frozen=True)
class Fingerprints:
    """The map from a sample's features e and the common expert's belief p (its softmax) to its fingerprint.

    `f = e - p B`, with B the least-squares regression of features on beliefs over the public split. Which labels a
    client holds moves its mean features, but hardly its mean fingerprint; what its inputs look like moves both. No
    label is read, of a client or of the public split.

    Attributes:
        explained_CD: B.
    """

    explained_CD: NDArray[np.float64]

    @classmethod
    def fitted(cls, feature_ND: NDArray[np.float32], logits_NC: NDArray[np.float32]) -> "Fingerprints":
        """Returns the map that the public split gives.

        Args:
            feature_ND: of the public split's samples, at least one.
            logits_NC: the common expert's, likewise.
        """
        explained_CD = np.linalg.lstsq(_beliefs(logits_NC), np.asarray(feature_ND, dtype=np.float64), rcond=None)[0]
        return cls(explained_CD.astype(np.float64))

    def of(self, feature_ND: NDArray[np.float32], logits_NC: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns fingerprint_ND of samples, float32."""
        out_ND = np.empty(feature_ND.shape, dtype=np.float32)
        for first in range(0, len(out_ND), ROWS):
            rows = slice(first, first + ROWS)
            out_ND[rows] = feature_ND[rows] - _beliefs(logits_NC[rows]) @ self.explained_CD
        return out_ND


def _beliefs(logits_NC: NDArray[np.float32]) -> NDArray[np.float64]:
    beliefs_NC: NDArray[np.float64] = softmax(np.asarray(logits_NC, dtype=np.float64), axis=1)
    return beliefs_NC
