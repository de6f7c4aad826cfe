"""What `scripts.bench` measures: a function a section, and the textbook versions that flowrl is compared with."""
