"""The front door: what `import w2wpp` and the command `w2wpp` offer, on names of a folder or files of one's own."""
