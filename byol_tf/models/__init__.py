"""The methods and what they consist of: networks, losses, optimizers, schedules."""
