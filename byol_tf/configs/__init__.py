"""Recipes as data: each module has `get_config(arg)`, which returns an `ml_collections.ConfigDict`.

On a command line, `--config=NAME` or `--config=NAME:ARG` selects a recipe and
`--config.FIELD=VALUE` overrides a field. Every recipe accepts the argument `smoke`: a tiny network
and one epoch of small batches, to check that everything runs.
"""
