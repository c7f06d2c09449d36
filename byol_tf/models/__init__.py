"""The methods and their parts: networks, losses, optimizers, schedules."""
