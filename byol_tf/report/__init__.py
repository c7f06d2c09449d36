"""Self-contained HTML pages: the page of byol-report, and what all pages share."""
