"""Measurements of this project, one module each: `python -m bench.NAME --json`."""
