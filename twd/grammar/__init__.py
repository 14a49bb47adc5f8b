"""From GBNF and JSON Schema to rules, and from rules to the tokens that they allow."""
