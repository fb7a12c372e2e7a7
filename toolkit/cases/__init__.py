"""Volumes and cases: reading, writing and preparing them; phantoms; overlays."""
