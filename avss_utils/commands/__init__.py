"""The command line, and what it makes."""
