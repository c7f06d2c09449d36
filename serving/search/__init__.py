"""Commands on top of the endpoint: embeddings of folders, and the nearest images to an image."""
