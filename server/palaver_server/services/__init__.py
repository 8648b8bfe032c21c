"""The servicers of the contract: each handler validates, makes one domain call, and encodes."""
