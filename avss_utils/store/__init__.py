"""Run folders, tables, notebooks and their verification: whole or not at all."""
