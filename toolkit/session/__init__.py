"""The interactive session: from prompts to windows, from the network's logits to masks, inside a time budget."""
