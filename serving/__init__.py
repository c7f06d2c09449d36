"""The embedding endpoint: a local server that speaks TF Serving's protocol, its client, and search.

It knows only SavedModels and the TF Serving API; it imports neither byol_tf nor pipelines.
"""
