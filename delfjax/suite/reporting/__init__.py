"""What finished runs amount to: the poster's tables, the HTML report, expected results, the whole
reproduction."""
