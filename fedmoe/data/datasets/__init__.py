"""The data sets, one file each; each file's one public name loads it."""
