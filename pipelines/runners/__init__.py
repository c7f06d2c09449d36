"""Commands: one module for each way to run the graph of `pipelines.pipeline`."""
