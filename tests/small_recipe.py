"""A recipe that trains the smallest network for a few steps."""

SMALL_RECIPE = """
seed = 1
[network]
width = 16
blocks_down = [1, 1]
heads = 1
attention_downsample = 1
[data]
patch_size = [16, 16, 16]
patches_per_case = 2
max_objects = 2
workers = 1
[loop]
precision = "off"
[stage1]
epochs = 1
learning_rate = 1e-3
[stage2]
epochs = 1
sampler = "error"
max_rounds = 1
"""
