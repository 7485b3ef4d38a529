"""The arithmetic of a round: sampling, assignment, merging, placement, the ledger, the server's state."""
