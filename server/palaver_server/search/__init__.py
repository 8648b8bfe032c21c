"""Everything about search but vectors: parsing, ranking, diversity, results, keyword index."""
