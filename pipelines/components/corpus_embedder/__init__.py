"""A component that embeds a folder of images into Parquet files."""
