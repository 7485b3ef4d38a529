"""One experiment for each system of the literature that is a part of fedmoe: `python -m benchmarks.theory.NAME`."""
