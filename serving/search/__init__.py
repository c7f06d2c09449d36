"""What people want embeddings for: folders of images in, embeddings out, and the nearest images to one."""
