"""Blesses an encoder of unlabelled data by label-free measures."""
