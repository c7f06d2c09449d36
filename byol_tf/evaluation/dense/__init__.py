"""Dense transfer protocols: semantic segmentation, object detection, depth estimation."""
