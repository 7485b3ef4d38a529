"""What a client minimises, one file a term; the terms of a job are added up."""
