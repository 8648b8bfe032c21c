"""The servicers: each handler validates its request, makes one domain call, and encodes."""
