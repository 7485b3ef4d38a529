"""The partition of FedJETs' main tables: each client holds k labels drawn at random (quantity-based label skew)."""

from fedmoe.data.contracts import Deal, Shares
from fedmoe.data.k_labels import deal_k_labels

__all__ = ["random_labels"]


def random_labels(deal: Deal) -> Shares:
    """Returns shares of `labels_per_client` random labels each; a label's samples are dealt evenly to its holders.

    Unlike the paper (arXiv 2306.08586, appendix A), which deals a label's samples with replacement, no two training
    clients share a sample. An unseen client is all test samples of a combination that no training client has.

    Raises:
        SettingsError: more labels a client than there are, a label with fewer samples than holders, or no combination
            left for the unseen clients.
    """
    return deal_k_labels(deal, "random")
