"""The image modality: decoding, preprocessing, augmentation."""
