"""A component that blesses an encoder of unlabelled data by label-free measures."""
