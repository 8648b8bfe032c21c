"""The reference model: the state that the service must have after the calls it acknowledged.

The state machine, the races and the chaos run hold the service against it.

- `sequential` says how each call changes the state, and what its answer is.
- `contract` applies requests to the model, and compares responses with the model's answers.
- `possible` keeps every state that the service may have for one caller that may lose answers.
- `book` records what many callers of a session were told, where the order of their calls is
  unknown; `reading` checks a read of the session against its book.
- `ledger` does the same for callers that race for sessions and delete them.
- `tables` checks the stored rows.

Nothing here starts a server or chooses a call.
"""
