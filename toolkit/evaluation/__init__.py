"""Evaluation by the official click protocol: segmenters, metrics, scores, reports and comparisons."""
