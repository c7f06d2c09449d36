"""Image files as work for Beam: listing, shards, and running a DoFn on each shard.

ImageExampleGen and CorpusEmbedder use them.
"""
