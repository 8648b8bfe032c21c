"""Search: keywords, ranking, snippets and the keyword index; vectors are in embedding/."""
