"""What models are made of: functions and modules without Lightning, which know nothing of training."""
