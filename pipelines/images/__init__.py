"""Images as Beam reads them: listing, shards, running over shards."""
