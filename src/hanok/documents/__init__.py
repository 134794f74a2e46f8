"""Answers from a tenant's own documents: collections of files, search in their passages, answers that cite them."""
