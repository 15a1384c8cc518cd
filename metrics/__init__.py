"""From samples to figures: pictures → features → statistics → a distance, each stage a plain function or class.

Nothing here knows Lightning or W&B, nor of the project more than `features` and `media`.
"""
