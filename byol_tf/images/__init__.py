"""Images as a modality: decoding, preprocessing, augmentation."""
