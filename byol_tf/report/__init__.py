"""HTML pages that need nothing but themselves: that of byol-report, and what all share."""
