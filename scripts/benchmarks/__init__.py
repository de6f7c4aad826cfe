"""What `scripts.bench` measures: a module per group of sections, the rivals they are measured against, and how."""
