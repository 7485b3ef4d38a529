"""Federated mixtures of experts on Flower.

Clients train class-specialised experts on non-IID shards, a server merges the experts and a gate that stands on a
frozen, pretrained common expert, and a fresh, unlabelled client gets the right experts on the spot
(FedJETs, arXiv 2306.08586).
"""

import os

# Before torch is loaded: its OpenMP threads then sleep where they wait for each other, in place of spinning. On a
# machine with anything else to do, two spinning threads on two cores train 10 times slower (docs/log.md, 2026-11-22).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
