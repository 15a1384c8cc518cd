"""What verbs are told: a checkpoint, pictures, latents, how samples are drawn; and how they complain."""
