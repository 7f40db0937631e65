"""Files that are whole or absent, and errors that name file, key and remedy."""
