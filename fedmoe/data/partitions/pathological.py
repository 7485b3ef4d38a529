"""The pathological partition: client i holds the k labels from i on, in the order of the labels and round again."""

from fedmoe.data.contracts import Deal, Shares
from fedmoe.data.k_labels import deal_k_labels

__all__ = ["pathological"]


def pathological(deal: Deal) -> Shares:
    """Returns shares of `labels_per_client` neighbouring labels each, a label's samples dealt evenly to its holders.

    Which labels a client holds hangs on no seed, only which samples. An unseen client is all test samples of labels
    that are not all neighbours: a combination that no training client has.

    Raises:
        SettingsError: more labels a client than there are, a label with fewer samples than holders, or no combination
            left for the unseen clients.
    """
    return deal_k_labels(deal, "deterministic")
