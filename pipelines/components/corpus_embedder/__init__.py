"""Embeddings of a folder of images, as Parquet."""
