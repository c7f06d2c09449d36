"""`byol-serve`: SavedModels over TF Serving's protocol, for development and single machines."""
