"""Data sets, partitions, the population of clients, and the cache of the common expert's embeddings."""
