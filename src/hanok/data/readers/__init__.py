"""Readers: files, archives and standard input to documents, one at a time, in bounded memory."""
