"""What a plan holds and why: as data, as text, as Markdown, as JSON."""
