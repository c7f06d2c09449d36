"""Commands on top of the endpoint: embeddings of image folders, and the nearest images to an image."""
