"""Tables that a paper takes as they are: a choice of rows and columns, named styles, five formats."""
