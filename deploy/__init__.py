"""What ships beside the chart: Compose's configuration, the health check of the images, and what tries these."""
