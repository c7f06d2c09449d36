"""The report of a pipeline run: one self-contained HTML file."""
