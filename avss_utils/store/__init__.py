"""Run folders, tables and notebooks on the disk: whole or not at all."""
