"""What every room above agrees on: geometry, prompts, windows, resampling, the click rule, bundles, files."""
