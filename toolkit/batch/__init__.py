"""Batch inference over files and folders, in one process or on a Ray cluster."""
