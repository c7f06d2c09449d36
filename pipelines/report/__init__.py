"""The page a person opens after a pipeline run: one HTML file that needs nothing else."""
