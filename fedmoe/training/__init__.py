"""One client's work (objectives) and many clients' work (the trainers)."""
