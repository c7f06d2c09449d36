"""Recipes as data: each module has `get_config(arg)` returning an `ml_collections.ConfigDict`.

On a command line `--config=NAME` or `--config=NAME:ARG` picks one, `--config.FIELD=VALUE` overrides any field. Every
recipe takes the argument `smoke`: a tiny network and one epoch of small batches, to see that everything runs.
"""
