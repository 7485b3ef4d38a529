"""The strategies, one file and one class each; a new one edits no other file."""
