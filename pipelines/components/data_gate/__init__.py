"""A component that stops the run before training if the data has changed too much."""
