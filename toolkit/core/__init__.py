"""What all other rooms share: geometry, prompts, windows, resampling, the click rule, bundles, files."""
