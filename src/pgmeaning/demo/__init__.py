"""The main job, shown on an embedded server with a small model and real rows."""
