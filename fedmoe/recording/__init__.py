"""The run folder and all that is written into it: rounds, checkpoints, loggers, plots, report."""
