"""The embedding endpoint: a local server that speaks TF Serving's protocol, its client, and search.

Knows only SavedModels and the TF Serving API; imports neither byol_tf nor pipelines.
"""
