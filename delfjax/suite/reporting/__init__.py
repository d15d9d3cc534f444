"""Reports on finished runs: the poster's tables, the HTML report, the check against expected
results, and the whole reproduction."""
