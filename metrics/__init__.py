"""From samples to figures: pictures → features → statistics → a distance, each stage a plain function or class.

Nothing here knows Lightning, W&B or any other package of the project, and importing `media.files` imports no torch.
"""
