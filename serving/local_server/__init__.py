"""`byol-serve`: TF Serving's protocol over SavedModels, for development and single machines."""
