"""Fingerprints: what of an embedding the common expert's own belief in the labels does not explain.

Shapes: N samples, D features of the embedding, C classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from fedmoe.data.contracts import Ids

__all__ = ["Fingerprints"]

ROWS = 4096


@dataclass(frozen=True)
class Fingerprints:
    """The map from a sample's embedding e and the common expert's belief p (its softmax) to its fingerprint.

    `f = e - p B`, with B the least-squares regression of embeddings on beliefs over the public split. Which labels a
    client holds moves its mean embedding, but hardly its mean fingerprint; what its inputs look like moves both. No
    label is read, of a client or of the public split.

    Attributes:
        explained_CD: B.
    """

    explained_CD: NDArray[np.float64]

    @classmethod
    def fitted(cls, embeddings: NDArray[np.float32], logits: NDArray[np.float32], public_ids: Ids) -> "Fingerprints":
        """Returns the map that the public split gives.

        Args:
            embeddings: the common expert's, by sample id.
            logits: likewise.
            public_ids: samples of the public split, at least one.
        """
        embedding_ND = np.asarray(embeddings[public_ids], dtype=np.float64)
        explained_CD = np.linalg.lstsq(_beliefs(logits[public_ids]), embedding_ND, rcond=None)[0]
        return cls(explained_CD.astype(np.float64))

    def of(self, embedding_ND: NDArray[np.float32], logits_NC: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns fingerprint_ND of samples, float32."""
        out_ND = np.empty(embedding_ND.shape, dtype=np.float32)
        for first in range(0, len(out_ND), ROWS):
            rows = slice(first, first + ROWS)
            out_ND[rows] = embedding_ND[rows] - _beliefs(logits_NC[rows]) @ self.explained_CD
        return out_ND


def _beliefs(logits_NC: NDArray[np.float32]) -> NDArray[np.float64]:
    beliefs_NC: NDArray[np.float64] = softmax(np.asarray(logits_NC, dtype=np.float64), axis=1)
    return beliefs_NC
