"""One place a notebook: what only that experiment needs. No chapter imports another."""
