"""The reference model: the state that the service must have after the calls it acknowledged.

The state machine, the races and the chaos run hold the service against it.

- `sequential` says how each call changes the state, and what its answer is.
- `contract` applies requests to the model, and compares responses with the model's answers.
- `book` records what callers were told of one session; `reading` checks a read of the session
  against its book.
- `ledger` keeps the books of callers that race for the same sessions.
- `tables` checks the stored rows.

Nothing here starts a server or chooses a call.
"""
