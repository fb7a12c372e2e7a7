"""Evaluation by the official click protocol: segmenters, metrics, scores, reports, comparisons."""
