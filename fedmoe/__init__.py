"""Federated mixtures of experts on Flower.

Clients train class-specialised experts on non-IID shards, a server merges the experts and a gate that stands on a
frozen, pretrained common expert, and a fresh, unlabelled client gets the right experts on the spot
(FedJETs, arXiv 2306.08586).
"""

__version__ = "0.1.0"
