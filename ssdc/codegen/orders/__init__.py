"""One ordering a file: from a choice to the typed context of its template."""
