"""One ordering a file: from a contraction to priced candidates, or to a refusal with its reason."""
