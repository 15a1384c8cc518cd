"""From samples to figures: pictures → features → statistics → a distance, each stage a plain function or class.

Nothing here imports Lightning or W&B.
"""
