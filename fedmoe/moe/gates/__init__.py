"""The gates, one file each: embedding -> scores over the experts."""
